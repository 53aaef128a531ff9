// Command tunnel sends traffic through real WireGuard tunnels between nodes that know each other from drpcd alone.
//
// Both nodes, the relay and the server are on the loopback address. Each scenario prints a line; the exit code is 0 only
// if all held.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/tunnel/internal/node"
	"github.com/drpcd/drpcd/interop/tunnel/internal/peer"
)

const (
	// maxRun bounds the whole, patience one step: a node that finds no relay looks for one for half a minute.
	maxRun   = 10 * time.Minute
	patience = 90 * time.Second
	// flowing is how long traffic is watched after a disturbance.
	flowing = 3 * time.Second
)

func main() {
	program := flag.String("drpcd", "", "the server's program")
	verbose := flag.Bool("v", false, "show what nodes and peers log")
	flag.Parse()
	logf := logger.Discard
	if *verbose {
		logf = log.New(os.Stderr, "", log.Lmicroseconds).Printf
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxRun)
	defer cancel()
	failed := false
	run := func(name string, scenario func() (string, error)) {
		start := time.Now()
		told, err := scenario()
		if err != nil {
			failed = true
			told = "FAILED: " + err.Error()
		}
		fmt.Printf("%-44s %6.1f s  %s\n", name, time.Since(start).Seconds(), told)
	}
	k := &kit{ctx: ctx, program: *program, logf: logf}
	run("set-up with a relay", func() (string, error) { return "", k.setUp(true) })
	if !failed {
		run("echo through the relay", k.throughRelay)
		run("echo directly", k.directly)
		run("restart of the server, traffic flowing", k.serverRestart)
		run("new coordinator, traffic flowing", k.coordinatorSwap)
		run("restart of the agent, same key", func() (string, error) { return k.agentRestart(true) })
		run("restart of the agent, new key", func() (string, error) { return k.agentRestart(false) })
	}
	k.tearDown()
	run("set-up with the server's own DERP map", func() (string, error) { return "", k.setUp(false) })
	if k.client != nil {
		run("echo directly, without any relay", k.directly)
	}
	k.tearDown()
	if failed {
		os.Exit(1)
	}
}

// kit is a server with an agent's node and a client's.
type kit struct {
	ctx     context.Context
	program string
	logf    logger.Logf

	relay         *node.Relay
	server        *server
	agent, client *peer.Peer
	key           key.NodePrivate
	// flow is the connection that outlasts disturbances.
	flow *connection
}

func (k *kit) setUp(withRelay bool) (err error) {
	node.AllowDirect(!withRelay)
	if withRelay {
		if k.relay, err = node.NewRelay(k.logf); err != nil {
			return err
		}
		k.server, err = newServer(k.program, k.relay.Map)
	} else {
		k.server, err = newServer(k.program, nil)
	}
	if err != nil {
		return err
	}
	k.key = key.NewNode()
	if err := k.startAgent(); err != nil {
		return err
	}
	id := uuid.New()
	own, err := node.New(node.Config{ID: id, Addresses: node.ClientAddresses(id), Source: true, Logf: k.logf})
	if err != nil {
		return err
	}
	dial := transport.Options{
		URL: k.server.url, Path: "/api/v2/workspaceagents/" + k.server.agent.String() + "/coordinate",
		Token: k.server.clientToken, Version: "2.8",
	}
	k.client = peer.Join(k.ctx, own, dial, k.server.agent, logger.WithPrefix(k.logf, "client: "))
	return nil
}

func (k *kit) startAgent() error {
	id := k.server.agent
	own, err := node.New(node.Config{Key: k.key, ID: id, Addresses: node.AgentAddresses(id), Logf: k.logf})
	if err != nil {
		return err
	}
	listener, err := own.Listen(echoPort)
	if err != nil {
		return errors.Join(err, own.Close())
	}
	go serveEcho(listener)
	dial := transport.Options{URL: k.server.url, Token: k.server.agentToken, Version: "2.8", Role: "agent"}
	k.agent = peer.Join(k.ctx, own, dial, uuid.Nil, logger.WithPrefix(k.logf, "agent: "))
	return nil
}

func (k *kit) tearDown() {
	if k.flow != nil {
		_ = k.flow.Close()
	}
	for _, p := range []*peer.Peer{k.agent, k.client} {
		if p != nil {
			_ = p.Leave()
		}
	}
	if k.server != nil {
		k.server.remove()
	}
	if k.relay != nil {
		k.relay.Close()
	}
	k.flow, k.agent, k.client, k.server, k.relay = nil, nil, nil, nil, nil
}

func (k *kit) throughRelay() (string, error) {
	conn, err := k.dial()
	if err != nil {
		return "", err
	}
	k.flow = conn
	if err := conn.echo(); err != nil {
		return "", err
	}
	path, err := k.client.PathTo(k.agent.Addr())
	if err != nil {
		return "", err
	}
	if path.Direct != "" || path.Handshake.IsZero() {
		return "", fmt.Errorf("not through the relay: %+v", path)
	}
	return fmt.Sprintf("relay %q, %d bytes received", path.Relay, path.Received), nil
}

// directly lets the nodes find each other's endpoints, over the server alone.
func (k *kit) directly() (string, error) {
	node.AllowDirect(true)
	k.agent.ShowEndpoints()
	k.client.ShowEndpoints()
	if k.flow == nil {
		conn, err := k.dial()
		if err != nil {
			return "", err
		}
		k.flow = conn
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := k.flow.echo(); err != nil {
			return "", err
		}
		path, err := k.client.PathTo(k.agent.Addr())
		if err != nil {
			return "", err
		}
		if path.Direct != "" {
			return "endpoint " + path.Direct, nil
		}
	}
	return "", errors.New("no direct path was found")
}

// disturb does something while traffic flows, which must not be cut, and waits until both sides are back.
func (k *kit) disturb(disturbance func() error) (string, error) {
	agent, client := k.agent.Sessions(), k.client.Sessions()
	nodes := k.client.Seen("NODE")
	watch := k.flow.watch(k.ctx)
	if err := disturbance(); err != nil {
		return "", err
	}
	back := func() bool {
		return k.agent.Sessions() > agent && k.client.Sessions() > client && k.client.Seen("NODE") > nodes
	}
	for end := time.Now().Add(patience); !back(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return "", errors.New("the peers did not come back")
		}
	}
	time.Sleep(flowing)
	echoes, gap, err := watch()
	if err != nil {
		return "", fmt.Errorf("the connection was cut: %w", err)
	}
	if gone := k.client.Seen("DISCONNECTED") + k.agent.Seen("DISCONNECTED"); gone > 0 {
		return "", fmt.Errorf("%d times DISCONNECTED", gone)
	}
	return fmt.Sprintf("%d echoes over one connection, longest gap %d ms", echoes, gap.Milliseconds()), nil
}

func (k *kit) serverRestart() (string, error) {
	return k.disturb(func() error {
		if err := k.server.stop(); err != nil {
			return err
		}
		return k.server.start()
	})
}

func (k *kit) coordinatorSwap() (string, error) { return k.disturb(k.server.swapCoordinator) }

// agentRestart ends the agent's node and builds another; its connections go with it, new ones must come.
func (k *kit) agentRestart(sameKey bool) (string, error) {
	_ = k.flow.Close()
	if err := k.agent.Leave(); err != nil {
		return "", err
	}
	if !sameKey {
		k.key = key.NewNode()
	}
	start := time.Now()
	if err := k.startAgent(); err != nil {
		return "", err
	}
	k.agent.ShowEndpoints()
	conn, err := k.dial()
	if err != nil {
		return "", err
	}
	k.flow = conn
	if err := conn.echo(); err != nil {
		return "", err
	}
	return fmt.Sprintf("echo again after %.1f s", time.Since(start).Seconds()), nil
}
