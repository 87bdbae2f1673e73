// Package fanout is the conflating engine: it takes samples, keeps per group what changed in numbered ticks, and
// cuts frames for viewers by merging the ticks after each viewer's cursor (docs/architecture.md). It is pure: no
// network, database, logging or clock of its own but the ticker in Run. Decisions take the time as an argument.
//
// # How it is laid out
//
// A sample is conflated once, in the open tick of its series' cell: the series that are in exactly the same groups. A group is a list of
// cells, so what lies in groups nested three deep costs no more than what lies in one. Cutting a group closes the open ticks of
// its cells that changed, under one new number; numbers are shared by all groups. The last ticks of each cell are kept in a
// ring. A frame is the merge of the ticks after a cursor in the cells of a group, limited to an interest set. Sets are interned by
// their patterns, frames are cut once for all with the same cursor and set, and encoded once by Frame.Packet.
//
// Subscriptions of a group with the same pace form a class, which is cut together: at once when the group was quiet,
// otherwise a pace after the last time, on a tick of the group. So viewers of one dashboard stay in step and share frames. One
// whose credit comes late is sent up to where its class is, and is in step again.
//
// # Concurrency
//
// All methods of Engine are safe for concurrent use. Those of a Subscription are for one goroutine at a time, but Close may come
// from any. Samples of one series must be offered in order by one goroutine, or in an order that does not matter.
//
// Three locks, taken in this order: Engine.mu (groups, rings, sets, cursors), interest.mu (room for merging, and the members
// together with Engine.mu), Engine.in (open ticks and last values: what producers need). Under in nothing is merged or encoded; a cut
// swaps slices. Merging and folding run under their set's mu only, encoding under the frame's, Wake under none. So a viewer that
// comes back after long, and needs a large merge, delays neither producers nor ticks nor viewers of other sets. Wake is called by
// whoever made the news: Run, SetSeries, RemoveSeries, RemoveGroup, Painted. It is owed once after each Next that had nothing,
// and comes if there may be something and credit for it.
//
// A SeriesID is used as an index: ids are small and dense. SetSeries comes before Restore and Offer; what comes for an
// unknown series is counted and dropped.
//
// # What is bounded, and what happens when it is full
//
//   - The open tick: one point for each series of a cell. With detail full, Config.FullSamples samples; above it those of that
//     tick are dropped, and frames that cover it are marked Truncated. It can't fill otherwise.
//   - Rings: Config.Ring in time (trimmed at up to an eighth more), Config.RingBytes in all; above it the fullest ring loses its
//     older half (Stats.Trims). Cursors that lay there are folded into an accumulator of the size of their interest set,
//     shared by those at the same place (Stats.Folds), so nothing is lost to a subscription that lives. Who resumes from there gets
//     a snapshot.
//   - Frames: no queue anywhere. A subscription has one or two frames in flight. Each interest set keeps its last four
//     frames and a snapshot for sharing, until its group is quiet; a frame keeps at most eight packets, and encodes or copies for further ones.
//   - Patterns: MaxPatterns a subscription, ErrTooLarge above.
//   - An interest set: 4 bytes a series of the cells it touches, 200 bytes or so a member. Members that left cost that much for as long as
//     the set is watched.
//   - Slots of series that left a cell are not used again: 8 bytes, until the cell is empty.
//   - Free slices kept for use again: 8 MB.
package fanout
