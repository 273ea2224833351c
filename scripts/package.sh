#!/usr/bin/env bash
# Packs the program for machines without a toolchain: an archive with the program, manual pages,
# completions of shells, and the licences of everything that is in it.
#
#   scripts/package.sh [DIR]         # writes DIR/anyid-rt-VERSION-TARGET.tar.gz, by default in target/
#
# FEATURES names features to build with, such as "provenance,cuda"; by default, provenance.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-target}
target=$(rustc -vV | sed -n 's/^host: //p')
FEATURES=${FEATURES-provenance}
features=(${FEATURES:+--features "$FEATURES"})
cargo build --release --locked -p anyid-cli ${features[@]+"${features[@]}"}
program=${CARGO_TARGET_DIR:-target}/release/anyid-rt
version=$("$program" --version | cut -d' ' -f2)
name=anyid-rt-$version-$target

mkdir -p "$folder"
work=$(mktemp -d "$folder/.package.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/$name
mkdir -p "$root/completions"
cp "$program" LICENSE README.md CHANGELOG.md "$root"
"$program" man -o "$root/man" --quiet >/dev/null
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$root/completions/anyid-rt.$shell"
done

# Every package that is linked in, with its licence and the texts that come with its source.
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
missing=()
while IFS='|' read -r package licence; do
    crate=${package%% v*}
    number=${package##* v}
    number=${number%% *}
    texts=()
    for text in "$sources"/*/"$crate-$number"/{,*/}{LICEN[CS]E,COPYING,NOTICE,UNLICENSE}*; do
        [ -f "$text" ] && texts+=("$text")
    done
    printf '== %s %s: %s\n\n' "$crate" "$number" "$licence"
    if [ ${#texts[@]} -gt 0 ]; then
        cat "${texts[@]}"
        printf '\n'
    else
        missing+=("$crate $number")
    fi
done < <(cargo tree --locked -p anyid-cli ${features[@]+"${features[@]}"} --edges normal --prefix none \
    --format '{p}|{l}' | grep -v "($PWD" | sed 's/ (proc-macro)//' | sort -u) >"$root/LICENCES-OF-OTHERS"
[ ${#missing[@]} -eq 0 ] || echo "no text of their own, named with their licence: ${missing[*]}"

tar -C "$work" -czf "$work/archive" "$name"
mv "$work/archive" "$folder/$name.tar.gz"
echo "wrote $folder/$name.tar.gz ($(du -h "$folder/$name.tar.gz" | cut -f1))"
