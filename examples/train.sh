#!/bin/sh
# A whole tuning in miniature: clips, an adapter, pairs sampled with it, preferences, a merged model, a video.
#
# Everything is made in the folder that is named (default: ./tuning) by tiny networks, whose weights are random:
# the steps are those of a real tuning, the pictures are texture. It takes less than two minutes.
# A folder takes one tuning: a second one needs another folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-tuning}
if [ -e "$folder/sft" ] || [ -e "$folder/dpo" ]; then
  echo "train.sh: $folder holds an earlier tuning: name another folder (train.sh FOLDER), or remove this one" >&2
  exit 1
fi
mkdir -p "$folder"
cd "$folder"
run() { anyid-rt "$@" --quiet; }
made="--size 64x64 --frames 5 --steps 4"

# 1. A model folder, and clips to learn from.
[ -d model ] || run init model --random-weights --seed 7
cp "$here/astronaut.png" "$here/portrait_pan.mp4" .
: > train.jsonl
for at in 0 1 2 3; do
  printf '%s\n' '{"schema":"anyid.sample/1","id":"s_'$at'","target":{"clip":"c_'$at'","media":"portrait_pan.mp4","start":'$((at * 15))',"frames":5,"crop":[60,0,420,360]},"references":[{"role":"primary","form":"portrait","clip":"p","media":"astronaut.png","frame":0,"crop":[100,0,400,300]}],"prompt":"A portrait, the camera moves, part '$at'."}' >> train.jsonl
done

# 2. Supervised tuning of an adapter.
cat > sft.toml <<'END'
[model]
path = "model"
[data]
manifest = "train.jsonl"
validation = "train.jsonl"
cache = "cache"
[video]
width = 64
height = 64
frames = 5
[lora]
rank = 8
alpha = 8.0
[train]
steps = 60
batch = 4
learning_rate = 5e-3
[run]
folder = "sft"
checkpoint_every = 20
validate_every = 20
END
anyid-rt train check --config sft.toml --quiet
run train lora --config sft.toml

# 3. Its adapter merged into the model, and two clips for each prompt sampled from that.
run lora merge model --lora sft/adapter.safetensors -o merged --force
echo '{"schema":"anyid.dpo/1","made by":"examples/train.sh"}' > pairs.jsonl
for at in 0 1 2; do
  for side in a b; do
    seed=$((10 * at)); [ "$side" = b ] && seed=$((seed + 1))
    run generate --model merged --ref astronaut.png --prompt "A portrait, take $at." $made --seed $seed \
      -o "pair_${at}_$side.mp4" --force > /dev/null
  done
  # Here a person would look at both. The first is taken as preferred.
  chosen=$(sha256sum "pair_${at}_a.mp4" | cut -d' ' -f1)
  rejected=$(sha256sum "pair_${at}_b.mp4" | cut -d' ' -f1)
  printf '%s\n' '{"schema":"anyid.dpo/1","id":"m_'$at'","sample":{"references":[{"role":"primary","form":"portrait","media":"astronaut.png","frame":0}],"prompt":"A portrait, take '$at'."},"chosen":{"video":"pair_'$at'_a.mp4","sha256":"'$chosen'"},"rejected":{"video":"pair_'$at'_b.mp4","sha256":"'$rejected'"}}' >> pairs.jsonl
done

# 4. Preferences, from the merged model, with the hash of the file of pairs as it is.
sed -e 's/"model"/"merged"/' -e 's/train\.jsonl/pairs.jsonl/' -e 's/"sft"/"dpo"/' \
  -e 's/learning_rate = .*/learning_rate = 1e-3/' -e 's/steps = .*/steps = 20/' -e 's/batch = .*/batch = 3/' \
  sft.toml > dpo.toml
run train dpo --config dpo.toml --set data.sha256="$(sha256sum pairs.jsonl | cut -d' ' -f1)"

# 5. Both adapters in one model, and a video.
run lora merge merged --lora dpo/adapter.safetensors -o tuned --force
run generate --model tuned --ref astronaut.png --prompt "A portrait, smiling." $made -o tuned.mp4 --force
