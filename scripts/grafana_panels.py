"""Grafana's dashboards as this repository writes them: rows of panels, made with the types that Grafana publishes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "[$__rate_interval]"
_UNKNOWN_LATER = ("id", "auto", "auto_min", "auto_count")  # of variables: the types of Grafana 13 have them not
_HEIGHTS = {"number": 4, "table": 5}

Kind = Literal["lines", "stacked", "number", "heatmap", "table", "bars", "states"]
AnyPanel = bargauge.Panel | heatmap.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel


@dataclass(frozen=True)
class Query:
    """`legend` names labels as {{label}}."""

    expression: str
    legend: str = "{{instance}}"


@dataclass(frozen=True)
class Panel:
    """Widths are in 24ths of the page; `height` None is what is usual for the kind. `names` says what values mean."""

    title: str
    said: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 8
    height: int | None = None
    names: Mapping[str, tuple[str, str]] | None = None
    """By value: a word and a colour."""


@dataclass(frozen=True)
class Variable:
    """What may be chosen: the values of `label` in `metric`."""

    label: str
    title: str
    metric: str


def document(
    title: str, uid: str, said: str, variables: Sequence[Variable], rows: Mapping[str, Sequence[Panel]]
) -> str:
    """The file for Grafana."""
    page = (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(said)
        .tags(["edgeqwen", "llm"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in variables:
        page.with_variable(_variable(variable))
    ids = itertools.count(1)
    for row, panels in rows.items():
        page.with_row(dashboards.Row(row).id(next(ids)))
        for panel in panels:
            page.with_panel(_panel(panel).id(next(ids)))
    made = json.loads(JSONEncoder().encode(page.build()))
    del made["style"]  # the types of Grafana 13 do not know this either
    for variable in made["templating"]["list"]:
        for key in _UNKNOWN_LATER:
            variable.pop(key, None)
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _variable(variable: Variable) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(variable.label)
        .label(variable.title)
        .datasource(SOURCE)
        .query({"query": f"label_values({variable.metric}, {variable.label})", "refId": variable.label})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> AnyPanel:
    made = _visualization(panel)
    made.title(panel.title).description(panel.said).unit(panel.unit).datasource(SOURCE)
    made.span(panel.width).height(panel.height or _HEIGHTS.get(panel.kind, 8))
    if panel.names is not None:
        results = {
            value: dashboard.ValueMappingResult(text=word, color=colour, index=at)
            for at, (value, (word, colour)) in enumerate(panel.names.items())
        }
        made.mappings([dashboard.ValueMap(options=results)])
    for at, query in enumerate(panel.queries):
        made.with_target(_target(query, panel.kind, chr(ord("A") + at)))
    return made


def _visualization(panel: Panel) -> AnyPanel:
    last = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    if panel.kind == "heatmap":
        colors = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Spectral").steps(64)
        return heatmap.Panel().calculate(False).color(colors).y_axis(heatmap.YAxisConfig().unit(panel.unit))
    if panel.kind == "number":
        return stat.Panel().reduce_options(last).graph_mode(common.BigValueGraphMode.AREA)
    if panel.kind == "bars":
        return bargauge.Panel().reduce_options(last).orientation(common.VizOrientation.HORIZONTAL).min(0)
    if panel.kind == "states":
        return statetimeline.Panel().show_value(common.VisibilityMode.NEVER).merge_values(True).row_height(0.9)
    if panel.kind == "table":
        return _table(panel)
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True)
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    lines = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(tooltip)
        .min(0)
        .fill_opacity(10)
        .show_points(common.VisibilityMode.NEVER)
    )
    if panel.kind == "stacked":
        lines.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return lines


def _table(panel: Panel) -> table.Panel:
    """Of one query its labels; of several a column for the value of each, named by its legend, and a row a board."""
    hidden = dict.fromkeys(("Time", "Value", "__name__", "job", "build_digest"), True)
    made = table.Panel().show_header(True)
    if len(panel.queries) == 1:
        return made.with_transformation(_transformed("organize", {"excludeByName": hidden}))
    names = {f"Value #{chr(ord('A') + at)}": query.legend for at, query in enumerate(panel.queries)}
    made.with_transformation(_transformed("merge", {}))
    return made.with_transformation(_transformed("organize", {"excludeByName": hidden, "renameByName": names}))


def _transformed(name: str, options: Mapping[str, object]) -> dashboard.DataTransformerConfig:
    return dashboard.DataTransformerConfig(id_val=name, options=options)


def _target(query: Query, kind: Kind, ref_id: str) -> Dataquery:
    made = Dataquery().expr(query.expression).legend_format(query.legend).ref_id(ref_id).datasource(SOURCE)
    if kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    if kind == "bars":
        return made.instant().format(PromQueryFormat.TIME_SERIES)
    return made.range().format(PromQueryFormat.HEATMAP if kind == "heatmap" else PromQueryFormat.TIME_SERIES)
