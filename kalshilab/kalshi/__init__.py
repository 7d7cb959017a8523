"""The exchange seen from a client: hosts, signatures, messages, REST calls and feeds."""
