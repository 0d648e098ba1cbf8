"""Who may reach a dask scheduler: TLS options, and the refusal of an open one on another machine.

Whoever reaches the port of a dask scheduler or worker runs code there, and a scheduler runs code in its clients.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput

TLS = {"tls_ca_file": "tls_ca_file", "tls_cert": "tls_client_cert", "tls_key": "tls_client_key"}
"""The engine's options, and the names that `distributed.Security` has for them."""


def security(options: Mapping[str, Any]) -> Any:
    """The `distributed.Security` of the options `tls_ca_file`, `tls_cert` and `tls_key`; None where none is given.

    Raises:
        BadInput: some of the three are lacking, or a file does not exist.
    """
    paths = {name: str(options[name]) for name in TLS if options.get(name)}
    if not paths:
        return None
    if lacking := [name for name in TLS if name not in paths]:
        raise BadInput(f"TLS needs {', '.join(TLS)}; the engine dask got no {' and no '.join(lacking)}")
    for name, path in paths.items():
        if not Path(path).is_file():
            raise BadInput(f"{name} {path!r} is not a file; `docs/scaling.md` says how certificates are made")
    from distributed import Security

    make: Any = Security
    return make(require_encryption=True, **{TLS[name]: path for name, path in paths.items()})


def check_address(address: str, options: Mapping[str, Any]) -> None:
    """Refuses an address that the options do not fit.

    Raises:
        BadInput: an open scheduler on another machine without `insecure`, or TLS options for an address without TLS.
    """
    protocol, _, rest = address.partition("://")
    if not rest:
        protocol, rest = "tcp", address
    encrypted = protocol in ("tls", "wss")
    if encrypted and not options.get("tls_cert") and not _configured():
        raise BadInput(f"the dask scheduler at {address} has TLS; give {', '.join(TLS)}")
    if not encrypted and options.get("tls_cert"):
        raise BadInput(f"the dask scheduler at {address} has no TLS and certificates are given; write tls://{rest}")
    if encrypted or options.get("insecure") or protocol == "inproc" or _is_loopback(rest.rpartition(":")[0] or rest):
        return
    raise BadInput(
        f"cannot use the dask scheduler at {address} because it is on another machine and has no TLS: whoever reaches "
        "its port runs code there; give tls_ca_file, tls_cert and tls_key, or insecure where the network is trusted"
    )


def _configured() -> bool:
    """Whether dask's own configuration names certificates for clients."""
    from distributed import Security

    make: Any = Security
    return make().get_connection_args("client").get("ssl_context") is not None


def _is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
