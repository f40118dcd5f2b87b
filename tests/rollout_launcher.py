"""`swift rollout` where there is no accelerator, on which it insists: its count of devices is one here."""

import swift.arguments.deploy_args as arguments
from swift.pipelines import rollout_main

if __name__ == "__main__":
    arguments.get_device_count = lambda: 1
    rollout_main()
