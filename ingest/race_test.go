//go:build race

package ingest

// poolDrops: under the race detector sync.Pool drops a quarter of what it is given, on purpose.
const poolDrops = true
