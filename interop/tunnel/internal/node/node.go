// Package node is a node of a tailnet made of Tailscale's own parts: its WireGuard engine, magicsock and network stack,
// all in user space and without a control plane. What it knows of others is what [Node.Update] is told.
package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/dns"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/tsd"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/netmap"
	"tailscale.com/types/views"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/magicsock"
	"tailscale.com/wgengine/netstack"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg/nmcfg"

	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// programAfter is how long a tunnel's source waits for the destination's acknowledgement before it programs it anyway.
const programAfter = 5 * time.Second

// Config says what node to build.
type Config struct {
	// Key is the WireGuard key; a new one when zero.
	Key key.NodePrivate
	// ID the node's number and addresses belong to.
	ID uuid.UUID
	// Addresses of the node.
	Addresses []netip.Prefix
	// Source is whether the node is a tunnel's source, which waits for acknowledgements.
	Source bool
	// Logf takes what Tailscale's parts log.
	Logf logger.Logf
}

// Node is one running node.
type Node struct {
	config Config
	engine wgengine.Engine
	socket *magicsock.Conn
	stack  *netstack.Impl
	dialer *tsdial.Dialer
	netMon *netmon.Monitor

	// stateMu guards what the engine's callbacks tell, so that they never wait for a reconfiguration.
	stateMu  sync.Mutex
	state    state
	withhold bool
	changed  func(*tailnetpb.Node)

	// mu serializes reconfigurations.
	mu      sync.Mutex
	peers   map[uuid.UUID]*peer
	derpMap *tailcfg.DERPMap
	closed  bool
}

// peer is what a node knows of another.
type peer struct {
	node *tailcfg.Node
	// active is whether the engine knows the peer.
	active bool
	// acknowledged is whether the peer has said that it is ready.
	acknowledged bool
	timer        *time.Timer
}

// New builds a node and starts it.
func New(config Config) (*Node, error) {
	if config.Key.IsZero() {
		config.Key = key.NewNode()
	}
	system := tsd.NewSystem()
	monitor, err := netmon.New(system.Bus.Get(), config.Logf)
	if err != nil {
		return nil, err
	}
	dialer := &tsdial.Dialer{Logf: config.Logf}
	dialer.SetBus(system.Bus.Get())
	engine, err := wgengine.NewUserspaceEngine(config.Logf, wgengine.Config{
		EventBus:      system.Bus.Get(),
		NetMon:        monitor,
		Dialer:        dialer,
		SetSubsystem:  system.Set,
		ControlKnobs:  system.ControlKnobs(),
		HealthTracker: system.HealthTracker.Get(),
		Metrics:       system.UserMetricsRegistry(),
	})
	if err != nil {
		return nil, errors.Join(err, monitor.Close())
	}
	system.Set(engine)
	socket := system.MagicSock.Get()
	stack, err := netstack.Create(config.Logf, system.Tun.Get(), engine, socket, dialer, system.DNSManager.Get(), system.ProxyMapper())
	if err != nil {
		engine.Close()
		return nil, errors.Join(err, monitor.Close())
	}
	system.Tun.Get().Start()
	stack.ProcessLocalIPs = true
	if err := stack.Start(nil); err != nil {
		engine.Close()
		return nil, errors.Join(err, monitor.Close())
	}
	node := &Node{
		config: config,
		engine: engine,
		socket: socket,
		stack:  stack,
		dialer: dialer,
		netMon: monitor,
		state: state{
			id:        ID(config.ID),
			key:       config.Key.Public(),
			disco:     socket.DiscoPublicKey(),
			addresses: config.Addresses,
		},
		withhold: true,
		peers:    map[uuid.UUID]*peer{},
	}
	engine.SetFilter(filter.NewAllowAllForTest(config.Logf))
	engine.SetStatusCallback(node.onStatus)
	socket.SetNetInfoCallback(node.onNetInfo)
	node.mu.Lock()
	defer node.mu.Unlock()
	return node, node.apply()
}

// Key of the node.
func (n *Node) Key() key.NodePrivate { return n.config.Key }

// Addr is the node's primary address.
func (n *Node) Addr() netip.Addr { return n.config.Addresses[0].Addr() }

// OnChange sets who is told of each change of the node, and tells it of the present one at once.
func (n *Node) OnChange(changed func(*tailnetpb.Node)) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.changed = changed
	n.tell()
}

// tell is called with stateMu held.
func (n *Node) tell() {
	if n.changed == nil {
		return
	}
	said := n.state
	if n.withhold {
		said.endpoints = nil
	}
	node, err := said.proto()
	if err != nil {
		n.config.Logf("own node: %v", err)
		return
	}
	n.changed(node)
}

// ShowEndpoints lets the node be found directly, on the loopback address alone. Until then it has no endpoint to tell.
func (n *Node) ShowEndpoints() {
	n.stateMu.Lock()
	n.withhold = false
	n.stateMu.Unlock()
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.socket.LocalPort())
	n.socket.SetStaticEndpoints(views.SliceOf([]netip.AddrPort{loopback}))
}

func (n *Node) onStatus(status *wgengine.Status, err error) {
	if err != nil {
		return
	}
	endpoints := []netip.AddrPort{}
	for _, endpoint := range status.LocalAddrs {
		if endpoint.Addr.Addr().IsLoopback() {
			endpoints = append(endpoints, endpoint.Addr)
		}
	}
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	if !slices.Equal(endpoints, n.state.endpoints) {
		n.state.endpoints = endpoints
		n.tell()
	}
}

func (n *Node) onNetInfo(info *tailcfg.NetInfo) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.state.home = info.PreferredDERP
	n.state.latency = info.DERPLatency
	n.tell()
}

// SetDERPMap gives the node a map.
func (n *Node) SetDERPMap(derpMap *tailcfg.DERPMap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.derpMap = derpMap
	n.socket.SetDERPMap(derpMap)
}

// Update tells the node of a peer's node.
func (n *Node) Update(id uuid.UUID, update *tailnetpb.Node) error {
	if update.GetPreferredDerp() == 0 {
		return nil
	}
	node, err := tailscaleNode(update)
	if err != nil {
		return fmt.Errorf("node of %s: %w", id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// A peer that came back under another id is the same peer.
	for other, known := range n.peers {
		if other != id && known.node != nil && known.node.Key == node.Key {
			n.forget(other)
		}
	}
	known := n.peer(id)
	known.node = node
	known.active = known.active || known.acknowledged || !n.config.Source
	if !known.active && known.timer == nil {
		known.timer = time.AfterFunc(programAfter, func() { _ = n.Ready(id) })
	}
	return n.apply()
}

// Ready is told when a peer has acknowledged this node.
func (n *Node) Ready(id uuid.UUID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.peer(id)
	known.acknowledged = true
	if known.node == nil || known.active {
		return nil
	}
	known.active = true
	return n.apply()
}

// Remove forgets a peer and cuts what runs over it.
func (n *Node) Remove(id uuid.UUID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget(id)
	return n.apply()
}

func (n *Node) peer(id uuid.UUID) *peer {
	known := n.peers[id]
	if known == nil {
		known = &peer{}
		n.peers[id] = known
	}
	return known
}

func (n *Node) forget(id uuid.UUID) {
	if known := n.peers[id]; known != nil && known.timer != nil {
		known.timer.Stop()
	}
	delete(n.peers, id)
}

// apply gives the engine what is known. It is called with mu held.
func (n *Node) apply() error {
	if n.closed {
		return nil
	}
	self := (&tailcfg.Node{
		ID:                n.state.id,
		StableID:          tailcfg.StableNodeID(fmt.Sprint(n.state.id)),
		Name:              fmt.Sprint(n.state.id),
		Key:               n.state.key,
		DiscoKey:          n.state.disco,
		Addresses:         n.config.Addresses,
		AllowedIPs:        n.config.Addresses,
		MachineAuthorized: true,
		Hostinfo:          (&tailcfg.Hostinfo{OS: "linux"}).View(),
	}).View()
	known := &netmap.NetworkMap{SelfNode: self, NodeKey: n.state.key, DERPMap: n.derpMap}
	for _, peer := range n.peers {
		if peer.active {
			known.Peers = append(known.Peers, peer.node.View())
		}
	}
	slices.SortFunc(known.Peers, func(a, b tailcfg.NodeView) int { return int(a.ID() - b.ID()) })
	n.engine.SetNetworkMap(known)
	n.socket.SetNetworkMap(self, known.Peers)
	n.stack.UpdateNetstackIPs(known)
	config, err := nmcfg.WGCfg(n.config.Key, known, n.config.Logf, netmap.AllowSubnetRoutes, "")
	if err != nil {
		return err
	}
	err = n.engine.Reconfig(config, &router.Config{LocalAddrs: n.config.Addresses}, &dns.Config{})
	if err != nil && !errors.Is(err, wgengine.ErrNoChanges) {
		return err
	}
	return nil
}

// Path is the way to a peer.
type Path struct {
	// Direct is the endpoint that packets go to; empty over a relay.
	Direct string
	// Relay is the code of the peer's home region.
	Relay string
	// Handshake is when the last WireGuard handshake was; zero before the first.
	Handshake time.Time
	// Received and Sent are bytes of the WireGuard peer.
	Received, Sent int64
}

// PathTo is the way to the peer that has an address.
func (n *Node) PathTo(addr netip.Addr) (Path, error) {
	builder := &ipnstate.StatusBuilder{WantPeers: true}
	n.engine.UpdateStatus(builder)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, known := range n.peers {
		if known.node == nil || !slices.ContainsFunc(known.node.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			continue
		}
		if status := builder.Status().Peer[known.node.Key]; status != nil {
			return Path{
				Direct: status.CurAddr, Relay: status.Relay, Handshake: status.LastHandshake,
				Received: status.RxBytes, Sent: status.TxBytes,
			}, nil
		}
	}
	return Path{}, fmt.Errorf("no peer with address %s", addr)
}

// Dial opens a TCP connection inside the tunnel.
func (n *Node) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := n.stack.DialContextTCPWithBind(ctx, n.Addr(), to)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Listen takes TCP connections inside the tunnel.
func (n *Node) Listen(port uint16) (net.Listener, error) {
	return n.stack.ListenTCP("tcp6", netip.AddrPortFrom(n.Addr(), port).String())
}

// Close ends the node without a word to its peers.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	for id := range n.peers {
		n.forget(id)
	}
	n.mu.Unlock()
	n.stateMu.Lock()
	n.changed = nil
	n.stateMu.Unlock()
	err := n.stack.Close()
	n.engine.Close()
	return errors.Join(err, n.dialer.Close(), n.netMon.Close())
}
