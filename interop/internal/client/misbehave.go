package client

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

const (
	// floodUpdates is how many updates a flood has, each with another home region.
	floodUpdates = 20_000
	// manyTunnels is more than any peer may have.
	manyTunnels = 100_000
	// bigNode is the size of an endpoint that makes a node too big.
	bigNode = 1 << 20
)

// Misbehaviours are what a client can do wrong, by name.
func Misbehaviours() []string {
	return []string{"foreign-tunnel", "ready", "address", "allowed-ips", "big-node", "tunnels", "flood"}
}

// misbehave sends what a client must not; its stream's reader tells what comes of it.
func misbehave(
	ctx context.Context, kind string, stream tailnetpb.DRPCTailnet_CoordinateClient, own *tailnetpb.Node,
) {
	node := func(change func(*tailnetpb.Node)) *tailnetpb.CoordinateRequest {
		changed := proto.Clone(own).(*tailnetpb.Node)
		change(changed)
		return &tailnetpb.CoordinateRequest{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: changed}}
	}
	tunnel := func() *tailnetpb.CoordinateRequest {
		id := uuid.New()
		return &tailnetpb.CoordinateRequest{AddTunnel: &tailnetpb.CoordinateRequest_Tunnel{Id: id[:]}}
	}
	send := func(request *tailnetpb.CoordinateRequest) bool {
		return ctx.Err() == nil && stream.Send(request) == nil
	}
	switch kind {
	case "foreign-tunnel":
		send(tunnel())
	case "ready":
		id := uuid.New()
		send(&tailnetpb.CoordinateRequest{
			ReadyForHandshake: []*tailnetpb.CoordinateRequest_ReadyForHandshake{{Id: id[:]}},
		})
	case "address":
		send(node(func(node *tailnetpb.Node) { node.Addresses = []string{"10.0.0.0/8"} }))
	case "allowed-ips":
		send(node(func(node *tailnetpb.Node) { node.AllowedIps = []string{"::/0"} }))
	case "big-node":
		send(node(func(node *tailnetpb.Node) { node.Endpoints = []string{string(slices.Repeat([]byte{'x'}, bigNode))} }))
	case "tunnels":
		for range manyTunnels {
			if !send(tunnel()) {
				return
			}
		}
	case "flood":
		for at := range floodUpdates {
			if !send(node(func(node *tailnetpb.Node) { node.PreferredDerp = int32(at) })) {
				return
			}
		}
	}
}
