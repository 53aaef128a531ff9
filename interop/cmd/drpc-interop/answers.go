package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/drpcd/drpcd/interop/internal/script"
)

// runScriptAnswers writes what the script answers to the methods of the real services, for the same script elsewhere.
func runScriptAnswers(_ context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	output := flags.String("output", "", "file to write")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	text, err := script.AnswersText()
	if err != nil {
		return nil, false, err
	}
	if err := os.WriteFile(*output, []byte(text), 0o644); err != nil {
		return nil, false, fmt.Errorf("write %s: %w", *output, err)
	}
	return struct{}{}, true, nil
}
