package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/drpcd/drpcd/interop/internal/script"
)

// runScriptServer serves the script until standard input ends, so that it never outlives the tests that started it.
func runScriptServer(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	address := flags.String("address", "127.0.0.1:0", "listening address")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return nil, false, err
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	server := &http.Server{
		Handler: script.Handler(), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return nil, false, err
	}
	return struct{}{}, true, nil
}
