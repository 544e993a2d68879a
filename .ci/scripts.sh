#!/bin/sh
# The types of the page's scripts, as TypeScript reads them from their comments; skipped where npm or its registry is not there.
tsc="npx --yes --package typescript@5.9.3 tsc"
if command -v npx >/dev/null && $tsc --version >/dev/null 2>&1; then
    $tsc --noEmit --allowJs --checkJs --strict --target es2022 --module esnext --moduleResolution bundler \
        src/bilens/explorer/app/main.js src/bilens/explorer/app/lm_main.js && echo "The page's scripts: no issues found"
else
    echo "The types of the page's scripts: skipped, npm or its registry is not there"
fi
