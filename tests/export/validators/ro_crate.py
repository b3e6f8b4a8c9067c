"""Validate an unpacked archive by roc-validator and read it by ro-crate-py: python ro_crate.py FOLDER PROFILE SEVERITY.

It needs no network: the validator asks for the JSON-LD context of RO-Crate 1.3 alone, and ro-crate-py brings that.
"""

import json
import sys
from importlib import resources
from io import BytesIO

import requests
from requests.adapters import HTTPAdapter
from rocrate.rocrate import ROCrate
from rocrate_validator import models, services
from urllib3.response import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.3/context"


def send(self, request, **how):
    """The context; nothing else is there."""
    body = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes() if request.url == CONTEXT else b""
    reply = requests.Response()
    reply.request, reply.url, reply.status_code = request, request.url, 200 if body else 404
    reply.headers["Content-Type"] = "application/ld+json"
    reply.raw = HTTPResponse(body=BytesIO(body), status=reply.status_code, preload_content=False, headers=reply.headers)
    return reply


HTTPAdapter.send = send
folder, profile, severity = sys.argv[1:4]
settings = services.ValidationSettings(
    rocrate_uri=folder, profile_identifier=profile, requirement_severity=getattr(models.Severity, severity),
    no_cache=True, enable_profile_inheritance=profile.startswith("ro-crate"),
)  # fmt: skip
result = services.validate(settings)
crate = ROCrate(folder)
run = crate.dereference("#run")
found = {
    "issues": sorted({(i.severity.name, i.check.identifier, str(i.message)) for i in result.get_issues()}),
    "version": str(crate.version), "entities": len(crate.get_entities()), "type": run.type,
    "instrument": run["instrument"].id, "result": len(run["result"]),
}  # fmt: skip
print(json.dumps(found))
