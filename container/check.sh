#!/usr/bin/env bash
# The steps of the Dockerfile without a container: the wheel of this tree in an environment of its own, then the demo
# as nobody, without a home, from a folder that cannot be written, and nothing written but the output.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
chmod 755 "$work"

if command -v "${HADOLINT:-hadolint}" >/dev/null; then "${HADOLINT:-hadolint}" Dockerfile; fi

"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet build
"$work/venv/bin/python" -m build --quiet --wheel --outdir "$work/dist" .
"$work/venv/bin/python" -m pip install --quiet -c constraints.txt torch
"$work/venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r requirements.lock
"$work/venv/bin/python" -m pip install --quiet --no-deps "$(echo "$work"/dist/*.whl)"

mkdir "$work/empty" "$work/out"
chmod 555 "$work/empty"
chmod 777 "$work/out"
nobody=()
if [ "$(id -u)" = 0 ]; then
  nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  # Where Python lies in root's own home, nobody cannot start it: then root without its power over permissions.
  "${nobody[@]}" env "$work/venv/bin/python" -c "" 2>/dev/null || nobody=(setpriv --bounding-set=-all --inh-caps=-all)
fi
touch "$work/now"
sleep 1

cd "$work/empty"
"${nobody[@]}" env -i PATH="$work/venv/bin:/usr/bin:/bin" HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 \
  TMPDIR="$work/empty" blindharmony demo "$work/out" --quiet

written=$(find "$work" -newer "$work/now" -type f -not -path "$work/out/*")
test -z "$written" || { echo "written outside the output: $written"; exit 1; }
test "$(find "$work/out" -type f | wc -l)" = 5
echo "container-check: the demo ran without a home and without rights, and wrote its five files only"
