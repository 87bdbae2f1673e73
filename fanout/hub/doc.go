// Package hub is the other half of fanout: named hubs with connections, users, ad-hoc groups and permissions, and messages that are
// delivered in order and without loss, in the terms of Azure Web PubSub. Where the engine of package fanout merges what a viewer
// had no time for, a hub keeps every message, within bounds, and ends a connection that would fall behind further. It is pure: no
// network, log or clock of its own but the ticker in Run. What is written to a socket comes from an Encoder.
//
// # How it is laid out
//
// A Service has Hubs, a Hub has Conns. A Conn is one logical client: it outlives its Transport if it is reliable, and then keeps
// messages until the client has acknowledged them. A message is put into the queues of all its receivers as one pointer; the
// transport of each takes what waits in one piece (Take), so that many messages leave in one write when there is much to do. It is encoded once
// for each protocol.
//
// Messages to a group reach all members in the same order.
//
// # Concurrency
//
// Everything is safe for concurrent use, but Take and Deliveries, which are for one goroutine of the transport. Three locks, taken in
// this order: Hub.mu (who is there, and in which group), group.mu (members; held while a message is put into their queues), Conn.mu (queue,
// permissions, state). A permission that was taken away, a member that was removed and a connection that was closed are so when the call
// returns.
//
// # What is bounded, and what happens when it is full
//
//   - What waits for a connection: Config.QueueMessages and QueueBytes. Above, it is ended with 1008.
//   - What a reliable client has not acknowledged: Config.UnackedMessages and UnackedBytes. Above, likewise, and it can't be recovered.
//   - Remembered ackIds: the last 1,000 that succeeded.
//   - Groups of a connection (Config.Groups), rules of a permission, open streams: the request is refused.
//   - Connections: Config.Connections in all. Connect fails.
package hub
