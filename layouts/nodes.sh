# NNODES whole nodes of 8 x 80 GB train; judge and rollout are on others: all weights, ZeRO-3.
#
#   JUDGE_HOST=0.0.0.0 JUDGE_GPUS=0,1,2,3,4,5,6,7 JUDGE_REPLICAS=2 DEEPEYES_JUDGE_API_KEY=secret bash deploy_judge.sh    # 10.0.0.7
#   LAYOUT=nodes ROLLOUT_HOST=0.0.0.0 bash deepeyes.sh rollout                                                           # 10.0.0.8
#
# Then on 10.0.0.1, and with NODE_RANK=1 on the second node:
#
#   export LAYOUT=nodes NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 ROLLOUT_HOST=10.0.0.8
#   export DEEPEYES_JUDGE_URLS=http://10.0.0.7:18901/v1,http://10.0.0.7:18902/v1 DEEPEYES_JUDGE_API_KEY=secret
#   bash deepeyes.sh train
#
# The rollout server of swift asks for no key: keep it in a closed network.
#
# Crops are cut from the view, the picture as the model saw it: of a picture above MAX_PIXELS they show no new pixel.
# DEEPEYES_CROP_SOURCE=original, for rollout and train alike, cuts the picture itself.

# shellcheck shell=bash disable=SC2034 # deepeyes.sh reads all of it
ROLLOUT_GPUS="${ROLLOUT_GPUS:-0,1}"
TRAIN_GPUS="${TRAIN_GPUS:-0,1,2,3,4,5,6,7}"

rollout_command=(
  swift rollout
  --torch_dtype bfloat16
  --vllm_gpu_memory_utilization 0.9
)

train_command=(
  swift rlhf
  --torch_dtype bfloat16
  --tuner_type full
  --freeze_vit false
  --freeze_aligner false
  --deepspeed zero3
  --use_vllm true
  --vllm_mode server
)
