// Package wire has the formats in which frames go to viewers: binary for browsers, JSON for scripts. docs/frames.md
// describes both for those who write a client; testdata holds frames that the Go and the TypeScript tests read alike.
package wire
