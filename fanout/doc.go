// Package fanout is the conflating engine: it takes samples, keeps per group what changed in numbered ticks, and
// cuts frames for viewers by merging the ticks after each viewer's cursor (docs/architecture.md). It is pure: no
// network, database, logging or clock of its own but the ticker in Run.
package fanout
