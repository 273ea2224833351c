#!/bin/sh
# Paints the references of three people of the drawn world: of each a portrait, a picture of its face and a clip.
# The people are the first three of those that reports are about, whom no model has learned from.
set -eu
cd "$(dirname "$0")"
group=2000000
for name in first second third; do
  mkdir -p "$name"
  anyid-rt world render --group "$group" --clip 0 --form portrait -o "$name/portrait.png" --force
  anyid-rt world render --group "$group" --clip 1 --form face -o "$name/face.png" --force
  anyid-rt world render --group "$group" --clip 2 -o "$name/clip.gif" --force
  group=$((group + 1))
done
