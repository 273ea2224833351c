#!/bin/sh
# Makes the frames that the README shows again, in docs/images/characters: of each person what the README's first
# command makes of the third one. Needs `anyid-rt` on the PATH.
set -eu
cd "$(dirname "$0")/../.."
for name in first second third; do
  person=examples/characters/$name
  anyid-rt generate --ref $person/portrait.png $person/face.png $person/clip.gif \
    --prompt "A close-up shot. There is no accessory. The face is smiling. The head faces forward. The head turns left. The background is a green field." \
    -o docs/images/characters/$name --force
  rm docs/images/characters/$name.recipe.json
done
