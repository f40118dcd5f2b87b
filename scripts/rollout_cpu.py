"""`swift rollout` on a machine without a GPU: swift insists on one, so its count of devices is one here."""

import sys

import swift.arguments.deploy_args
from swift.pipelines import rollout_main

if __name__ == "__main__":
    swift.arguments.deploy_args.get_device_count = lambda: 1
    rollout_main(sys.argv[2:])  # after the word `rollout`, which swift's own command line takes too
