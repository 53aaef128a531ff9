package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	// echoPort of the agent's node.
	echoPort = 7
	// echoSize is several packets.
	echoSize = 16_000
	// dialTimeout of one attempt: a node that is not known yet does not answer.
	dialTimeout = time.Second
	// pause between the echoes of a flow.
	pause = 20 * time.Millisecond
)

func serveEcho(listener net.Listener) {
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
}

// connection is a TCP connection to the agent's echo.
type connection struct{ net.Conn }

func (k *kit) dial() (*connection, error) {
	to := netip.AddrPortFrom(k.agent.Addr(), echoPort)
	end := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(k.ctx, dialTimeout)
		conn, err := k.client.Dial(ctx, to)
		cancel()
		if err == nil {
			return &connection{conn}, nil
		}
		if time.Now().After(end) {
			return nil, err
		}
	}
}

// echo sends and gets back the same.
func (c *connection) echo() error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), echoSize/16)
	if _, err := c.Write(sent); err != nil {
		return err
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes came back")
	}
	return nil
}

// watch echoes until it is asked how many there were and how long the longest took.
func (c *connection) watch(ctx context.Context) func() (echoes int, gap time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		echoes int
		gap    time.Duration
		err    error
	}
	done := make(chan result, 1)
	go func() {
		r := result{}
		for ctx.Err() == nil && r.err == nil {
			start := time.Now()
			r.err = c.echo()
			r.gap = max(r.gap, time.Since(start))
			r.echoes++
			time.Sleep(pause)
		}
		done <- r
	}()
	return func() (int, time.Duration, error) {
		cancel()
		r := <-done
		return r.echoes, r.gap, r.err
	}
}
