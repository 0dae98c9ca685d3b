"""serve.py FOLDER ADDRESS PORT CERTIFICATE KEY: the folder over HTTPS, as any web server has it, with a list of it."""

from __future__ import annotations

import ssl
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

folder, address, port, certificate, key = sys.argv[1:]
server = ThreadingHTTPServer((address, int(port)), partial(SimpleHTTPRequestHandler, directory=folder))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
