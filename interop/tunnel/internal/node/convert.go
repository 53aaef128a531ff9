package node

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// The service prefixes of nodes: the first 6 bytes of an address, whose others are those of a UUID.
var (
	tailscalePrefix = [6]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0}
	coderPrefix     = [6]byte{0xfd, 0x60, 0x62, 0x7a, 0xa4, 0x2b}
)

func address(prefix [6]byte, id uuid.UUID) netip.Prefix {
	copy(id[:], prefix[:])
	return netip.PrefixFrom(netip.AddrFrom16(id), 128)
}

// AgentAddresses are those that an agent announces, the primary one first.
func AgentAddresses(id uuid.UUID) []netip.Prefix {
	return []netip.Prefix{address(tailscalePrefix, id), address(coderPrefix, id)}
}

// ClientAddresses is the one of a client, which may choose its id.
func ClientAddresses(id uuid.UUID) []netip.Prefix {
	return []netip.Prefix{address(tailscalePrefix, id)}
}

// ID is the number of the node that belongs to a UUID: the absolute value of its last 8 bytes.
func ID(id uuid.UUID) tailcfg.NodeID {
	number := int64(binary.BigEndian.Uint64(id[8:]))
	if number < 0 {
		number = -number
	}
	return tailcfg.NodeID(number)
}

// state is what a node says of itself.
type state struct {
	id        tailcfg.NodeID
	key       key.NodePublic
	disco     key.DiscoPublic
	addresses []netip.Prefix
	home      int
	latency   map[string]float64
	endpoints []netip.AddrPort
}

func (s *state) proto() (*tailnetpb.Node, error) {
	public, err := s.key.MarshalBinary()
	if err != nil {
		return nil, err
	}
	disco, err := s.disco.MarshalText()
	if err != nil {
		return nil, err
	}
	node := &tailnetpb.Node{
		Id:            int64(s.id),
		AsOf:          timestamppb.Now(),
		Key:           public,
		Disco:         string(disco),
		PreferredDerp: int32(s.home),
		DerpLatency:   maps.Clone(s.latency),
		Addresses:     texts(s.addresses),
		AllowedIps:    texts(s.addresses),
		Endpoints:     texts(s.endpoints),
	}
	return node, nil
}

func texts[T fmt.Stringer](values []T) []string {
	out := make([]string, 0, len(values))
	for _, value := range values {
		out = append(out, value.String())
	}
	return out
}

// tailscaleNode is the node of a peer as the engine takes it.
func tailscaleNode(node *tailnetpb.Node) (*tailcfg.Node, error) {
	out := &tailcfg.Node{
		ID:       tailcfg.NodeID(node.Id),
		StableID: tailcfg.StableNodeID(fmt.Sprint(node.Id)),
		Name:     fmt.Sprint(node.Id),
		HomeDERP: int(node.PreferredDerp),
		Hostinfo: (&tailcfg.Hostinfo{OS: "linux"}).View(),
	}
	if err := out.Key.UnmarshalBinary(node.Key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if err := out.DiscoKey.UnmarshalText([]byte(node.Disco)); err != nil {
		return nil, fmt.Errorf("disco key: %w", err)
	}
	var err error
	if out.Addresses, err = parsed(node.Addresses, netip.ParsePrefix); err != nil {
		return nil, err
	}
	if out.AllowedIPs, err = parsed(node.AllowedIps, netip.ParsePrefix); err != nil {
		return nil, err
	}
	out.Endpoints, err = parsed(node.Endpoints, netip.ParseAddrPort)
	return out, err
}

func parsed[T any](raw []string, parse func(string) (T, error)) ([]T, error) {
	out := make([]T, 0, len(raw))
	for _, text := range raw {
		value, err := parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

// DERPMap is a map from the wire as Tailscale's own nodes take it. They know no force_http.
func DERPMap(from *tailnetpb.DERPMap) (*tailcfg.DERPMap, error) {
	if from.GetHomeParams() == nil {
		return nil, fmt.Errorf("a DERP map without home parameters, which ends a real agent's process")
	}
	out := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	if scores := from.HomeParams.RegionScore; len(scores) > 0 {
		out.HomeParams = &tailcfg.DERPHomeParams{RegionScore: map[int]float64{}}
		for id, score := range scores {
			out.HomeParams.RegionScore[int(id)] = score
		}
	}
	for _, id := range slices.Sorted(maps.Keys(from.Regions)) {
		region := from.Regions[id]
		to := &tailcfg.DERPRegion{
			RegionID:   int(region.RegionId),
			RegionCode: region.RegionCode,
			RegionName: region.RegionName,
			Avoid:      region.Avoid,
		}
		for _, node := range region.Nodes {
			to.Nodes = append(to.Nodes, &tailcfg.DERPNode{
				Name:             node.Name,
				RegionID:         int(node.RegionId),
				HostName:         node.HostName,
				CertName:         node.CertName,
				IPv4:             node.Ipv4,
				IPv6:             node.Ipv6,
				STUNPort:         int(node.StunPort),
				STUNOnly:         node.StunOnly,
				DERPPort:         int(node.DerpPort),
				InsecureForTests: node.InsecureForTests,
				STUNTestIP:       node.StunTestIp,
				CanPort80:        node.CanPort_80,
			})
		}
		out.Regions[int(id)] = to
	}
	return out, nil
}
