"""Certificates for the tests of TLS, made by openssl: they are minutes old and worth nothing."""

import ssl
import subprocess
from pathlib import Path


class Certificates:
    """Made by openssl: a CA, a certificate of localhost, one of another name, one of a client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = self._make("ca", "-x509", "-subj", "/CN=test CA", "-addext", "basicConstraints=critical,CA:true")[0]
        self.localhost = self._sign("localhost", "DNS:localhost")
        self.elsewhere = self._sign("elsewhere", "DNS:elsewhere.example")
        self.client = self._sign("client", "DNS:client")

    def _make(self, name: str, *arguments: str) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *arguments)
        return certificate, key

    def _sign(self, name: str, alternative: str) -> tuple[Path, Path]:
        certificate, key = self._make(
            name, "-x509", "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}",
            "-CA", str(self.ca), "-CAkey", str(self.ca.with_suffix(".key")),
        )  # fmt: skip
        return certificate, key

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def server(self, certificate: tuple[Path, Path], *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if ask_client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
