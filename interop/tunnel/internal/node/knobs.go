package node

import (
	"strconv"

	"tailscale.com/envknob"
	"tailscale.com/net/netns"
)

// init keeps every node on this machine: no interface's address is an endpoint, and no socket is marked or bound to an
// interface. What would look beyond it (captive portals, clouds, port mappings) is left out of the build by tags.
func init() {
	envknob.Setenv("TS_DEBUG_OMIT_LOCAL_ADDRS", "true")
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
}

// AllowDirect is whether nodes of this process may find each other directly, rather than over relays alone.
func AllowDirect(allow bool) {
	envknob.Setenv("TS_DEBUG_NEVER_DIRECT_UDP", strconv.FormatBool(!allow))
}
