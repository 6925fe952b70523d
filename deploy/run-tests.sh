#!/usr/bin/env bash
# All that CI runs: lint, types, imports, spelling, then every test, quick ones first. Ends with pytest's closing line,
# or with one line that names the checks that failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
shopt -s nullglob

readonly CHECKS=(lint types imports spell)
readonly FOLDERS=(unit property golden contract sim integration e2e)
readonly TESTS_S_MAX=4500 # a hang must not eat CI's 90 minutes; the limit of one test stands in pyproject.toml

failed=()
for check in "${CHECKS[@]}"; do
    printf '== %s\n' "$check"
    .venv/bin/poe --quiet "$check" || failed+=("$check")
done

printf '== tests\n'
# Paths must not overlap: pytest then puts them in an order of its own. A folder that FOLDERS does not name comes last.
paths=(tests/test_*.py)
for folder in "${FOLDERS[@]}"; do
    paths+=("tests/$folder")
done
for folder in tests/*/; do
    folder=${folder%/}
    [[ " ${paths[*]} " == *" $folder "* || ! -e $folder/__init__.py ]] || paths+=("$folder")
done
timeout --signal=INT --kill-after=60 "$TESTS_S_MAX" .venv/bin/python -m pytest "$@" "${paths[@]}"
status=$?

if ((${#failed[@]})); then
    printf 'FAILED before the tests: %s (see above)\n' "${failed[*]}" >&2
    exit 1
fi
exit "$status"
