"""Read an archive's croissant.json by mlcroissant, with every record of its scores: python croissant.py FILE."""

import json
import sys

import mlcroissant

dataset = mlcroissant.Dataset(jsonld=sys.argv[1])
issues = dataset.metadata.issues
records = [
    {key.removeprefix("scores/"): value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
    for row in dataset.records("scores")
]
kept = sorted(key for key in dataset.metadata.to_json() if key.startswith(("rai:", "prov:")))
print(
    json.dumps({"errors": sorted(issues.errors), "warnings": sorted(issues.warnings), "kept": kept, "records": records})
)
