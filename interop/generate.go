// Package interop holds Go programs that speak to drpcd with the libraries that real agents are made of.
package interop

//go:generate go run ./internal/gen ../proto .
