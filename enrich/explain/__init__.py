"""Why a connection is allowed or denied, policy by policy."""
