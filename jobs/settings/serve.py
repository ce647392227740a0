"""Settings of serve-sql."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs.settings.section import Section

_NO_PASSWORDS = {"NONE", "NOSASL"}


class ServeSqlSettings(Section):
    """The Thrift server that JDBC clients connect to, and the Spark Connect server beside it, for Python clients."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on; one that other machines reach needs authentication",
    )
    port: int = Field(
        10000, ge=0, le=65535, description="0: any that is free; what is printed has it"
    )
    authentication: Literal["NONE", "NOSASL", "LDAP", "PAM", "CUSTOM", "KERBEROS"] = Field(
        "NONE",
        validate_default=True,
        description="as Hive's hive.server2.authentication; all else of Hive's, TLS too, as "
        "spark.conf.spark.hive.server2.…",
    )
    connect_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="of Spark Connect at the same host, as 15002; null: not served; 0: any that is free. A host that "
        "other machines reach needs a token: spark.conf.spark.connect.authenticate.token, or "
        "SPARK_CONNECT_AUTHENTICATE_TOKEN in the environment",
    )

    @field_validator("authentication")
    @classmethod
    def _closed_to_strangers(cls, authentication: str, info: ValidationInfo) -> str:
        host = info.data.get("host")  # missing where it is itself refused
        if host is not None and authentication in _NO_PASSWORDS and not is_loopback(host):
            raise ValueError(
                f"whoever reaches serve_sql.host={host} could read and change all that this process can. Listen on "
                "127.0.0.1, or set serve_sql.authentication to LDAP, PAM, CUSTOM or KERBEROS and what that needs"
            )
        return authentication


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: `localhost` or a loopback address; other names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
