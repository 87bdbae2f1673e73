//go:build !race

package chunk

const poolDrops = false
