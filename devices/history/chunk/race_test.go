//go:build race

package chunk

// poolDrops: under the race detector sync.Pool drops a quarter of what it is given, on purpose.
const poolDrops = true
