#!/usr/bin/env bash
# The page in a headless browser, and its parts in node. Part of `make test-all`. Needs `demo` built (and `runtime`, for its page);
# takes puppeteer-core by npm into .native/page once, and Chromium from the system (CHROMIUM=...), by apt where we may.
# With a folder as argument, leaves screenshots there.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "skipped: tests of the page: $*"; exit 0; }
command -v node >/dev/null || skip "there is no node"
node --test tests/page/*.test.mjs

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$chromium" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium"
  { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
  chromium=$(command -v chromium || true)
fi
[ -n "$chromium" ] || skip "there is no Chromium; install it, or name it by CHROMIUM="
[ -x target/debug/demo ] || skip "target/debug/demo is not built: cargo build -p demo"

package=puppeteer-core@25.16.0
if [ "$(cat .native/page/.complete 2>/dev/null)" != "$package" ]; then
  mkdir -p .native/page/npm
  (cd .native/page/npm && echo '{"private":true}' >package.json && npm install --silent --no-audit --no-fund "$package" >/dev/null 2>&1) ||
    skip "npm cannot fetch $package"
  echo "$package" >.native/page/.complete
fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
ln -s "$PWD/.native/page/npm" "$work/npm"
runtime=-; [ -x target/debug/runtime ] && runtime=target/debug/runtime
clip=-; [ -f .native/clips/demo.mp4 ] && clip=.native/clips/demo.mp4
[ $# -eq 0 ] || mkdir -p "$1"
node tests/page/browser.mjs "$chromium" target/debug/demo "$runtime" "$clip" "$work" "$@"
