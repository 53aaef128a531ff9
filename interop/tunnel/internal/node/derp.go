package node

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// Relay is Tailscale's own DERP server on the loopback address, with a certificate of its own making.
type Relay struct {
	derp *derpserver.Server
	http *httptest.Server
	// Map leads to the relay alone.
	Map *tailcfg.DERPMap
}

// NewRelay starts a relay.
func NewRelay(logf logger.Logf) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	derp := derpserver.New(key.NewNode(), logf)
	server := httptest.NewUnstartedServer(derpserver.Handler(derp))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Config.ErrorLog = log.New(logger.FuncWriter(logf), "", 0)
	// The relay takes over the connection, which HTTP/2 does not allow.
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.StartTLS()
	const region = 1
	return &Relay{derp: derp, http: server, Map: &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{region: {
			RegionID:   region,
			RegionCode: "loopback",
			RegionName: "Loopback",
			Nodes: []*tailcfg.DERPNode{{
				Name:             fmt.Sprintf("%da", region),
				RegionID:         region,
				HostName:         "127.0.0.1",
				IPv4:             "127.0.0.1",
				IPv6:             "none",
				STUNPort:         -1,
				DERPPort:         listener.Addr().(*net.TCPAddr).Port,
				InsecureForTests: true,
			}},
		}},
	}}, nil
}

// Close ends the relay.
func (r *Relay) Close() {
	r.http.CloseClientConnections()
	r.http.Close()
	_ = r.derp.Close()
}
