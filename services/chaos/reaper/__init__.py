"""The reaper: ends faults on time while the chaos service is down."""
