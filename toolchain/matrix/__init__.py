"""Many packages in one run, on this machine or on a Dask cluster."""
