package node

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

func TestAddressesOfAnAgent(t *testing.T) {
	id := uuid.MustParse("0123cdef-4567-89ab-cdef-0123456789ab")
	got := texts(AgentAddresses(id))
	want := []string{"fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/128", "fd60:627a:a42b:89ab:cdef:123:4567:89ab/128"}
	if got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v, want %v", got, want)
	}
	if ID(id) != 0x3210fedcba987655 {
		t.Errorf("%x", ID(id))
	}
}

// Without any server: what two nodes need to reach each other, over the relay and then directly.
func TestTwoNodes(t *testing.T) {
	AllowDirect(false)
	relay, err := NewRelay(t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	ids := [2]uuid.UUID{uuid.New(), uuid.New()}
	var nodes [2]*Node
	for i, id := range ids {
		nodes[i], err = New(Config{ID: id, Addresses: AgentAddresses(id), Logf: t.Logf})
		if err != nil {
			t.Fatal(err)
		}
		defer nodes[i].Close()
		nodes[i].SetDERPMap(relay.Map)
	}
	for i := range nodes {
		nodes[i].OnChange(func(node *tailnetpb.Node) {
			t.Logf("node %d: %v", i, node)
			go nodes[1-i].Update(ids[i], node)
		})
	}
	listener, err := nodes[1].Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	start := time.Now()
	conn, err := nodes[0].Dial(ctx, netip.AddrPortFrom(nodes[1].Addr(), 7))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	echo := func() {
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1000)
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(sent, got) {
			t.Fatal(err, len(got))
		}
	}
	echo()
	path, err := nodes[0].PathTo(nodes[1].Addr())
	t.Log(time.Since(start), path, err)
	if err != nil || path.Direct != "" {
		t.Fatal(path, err)
	}
	AllowDirect(true)
	for i := range nodes {
		nodes[i].ShowEndpoints()
	}
	for path.Direct == "" && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
		echo()
		path, err = nodes[0].PathTo(nodes[1].Addr())
	}
	t.Log(time.Since(start), path, err)
	if path.Direct == "" {
		t.Fatal(path, err)
	}
}
