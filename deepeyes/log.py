"""The logger of the package: a child of swift's, with its level and its handlers where swift is loaded."""

import logging

logger = logging.getLogger("swift.deepeyes")
