# Flags that swift 4.6 accepts, and then dies of at the first step, or learns nothing from.
# shellcheck shell=bash

refuse_flags() { # ARRAY RANK: a whole command, and the rank of an adapter that vLLM is told
  local -n words="$1"
  local loss temperature rank
  rank="$(flag_of "$1" lora_rank)"
  loss="$(flag_of "$1" loss_type)"
  temperature="$(flag_of "$1" temperature)"
  if [[ "$loss" == @(fipo|real) ]]; then
    die "--loss_type $loss can't run: swift 4.6 raises at the first loss, as if a teacher were set; leave it out"
  fi
  if [[ -n "$(flag_of "$1" off_policy_sequence_mask_delta)" ]]; then
    die "--off_policy_sequence_mask_delta can't run: swift 4.6 raises at the first loss, as if a teacher were set;" \
      "leave it out"
  fi
  if [[ "$(flag_of "$1" async_generate)" == @(true|True|1|-*) || "${words[-1]}" == --async_generate ]]; then # alone: true
    die "--async_generate can't run: swift refuses it together with a multi-turn scheduler; leave it out"
  fi
  if [[ "$temperature" =~ ^0*\.?0*$ && "$temperature" == *0* ]]; then
    die "--temperature $temperature gives a group of equal trajectories, and swift divides by it; take 1.0"
  fi
  if [[ -n "$2" ]] && ((rank > $2)); then
    die "--lora_rank $rank is more than vLLM has room for; set LORA_RANK=$rank instead, for rollout and train"
  fi
  if [[ "$(flag_of "$1" scale_rewards)" == gdpo && "$(flag_of "$1" reward_weights)" == 1 ]]; then
    say "warning: --scale_rewards gdpo scales each reward by itself, but --reward_weights 1 0 0 0 counts the total" \
      "alone; for gdpo take the parts: --reward_weights 0 0.8 0.2 1.2"
  fi
}
