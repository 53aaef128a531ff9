package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/internal/client"
)

func runClient(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	config := client.Config{Progress: os.Stderr}
	options := dialFlags(flags)
	duration := flags.Duration("duration", time.Minute, "stop after this time")
	id := func(to *uuid.UUID) func(string) error {
		return func(text string) (err error) {
			*to, err = uuid.Parse(text)
			return err
		}
	}
	flags.Func("agent", "be a client of this one agent", id(&config.Agent))
	flags.Func("tunnel", "open a tunnel to this agent; may be given often", func(text string) error {
		tunnel, err := uuid.Parse(text)
		config.Tunnels = append(config.Tunnels, tunnel)
		return err
	})
	flags.BoolVar(&config.Resume, "resume", false, "ask for resume tokens and come back with them")
	flags.StringVar(&config.ResumeToken, "resume-token", "", "come with this one at first")
	flags.Func("follow", "follow the workspaces of this owner", id(&config.Owner))
	kinds := strings.Join(client.Misbehaviours(), ", ")
	flags.StringVar(&config.Misbehave, "misbehave", "", "once connected, do what no client may: "+kinds)
	flags.DurationVar(&config.CutAfter, "cut-after", 0, "cut the first connection after this time")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	if config.Misbehave != "" && !slices.Contains(client.Misbehaviours(), config.Misbehave) {
		return nil, false, fmt.Errorf("no such misbehaviour: %s", config.Misbehave)
	}
	options.Role = ""
	config.Dial = *options
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	report := client.Run(ctx, config)
	return report, report.OK, nil
}
