//go:build !race

package ingest

const poolDrops = false
