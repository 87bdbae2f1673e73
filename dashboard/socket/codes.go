package socket

// A Code says why a connection was closed, and by its range whether the client should come back:
//
//	1000         it asked for the end: don't
//	1001, 1012   the server stops or restarts: come back, after a random part of a few seconds
//	1002 – 1010  the client broke the protocol: don't, the same would happen again
//	1011, 1013   trouble here: come back with growing pauses
//	4000 – 4099  the client did what it must not: don't
//	4100 – 4199  it is not signed in any more: come back after signing in again
//	4200 – 4299  too much at the moment: come back with growing pauses
type Code uint16

// Codes of RFC 6455, 7.4.1 and the IANA registry, then our own.
const (
	Normal          Code = 1000
	GoingAway       Code = 1001
	ProtocolError   Code = 1002
	UnsupportedData Code = 1003
	NoStatus        Code = 1005 // in a close frame that has none; never sent
	InvalidPayload  Code = 1007
	PolicyViolation Code = 1008
	MessageTooBig   Code = 1009
	InternalError   Code = 1011
	ServiceRestart  Code = 1012
	TryAgainLater   Code = 1013

	TooManyMessages Code = 4000 // control messages above the rate
	Expired         Code = 4100 // the session or token has ended
	Revoked         Code = 4101 // the user or token is gone or disabled
)

// ComesBack reports whether a client closed with c should connect again by itself.
func (c Code) ComesBack() bool {
	switch c {
	case GoingAway, ServiceRestart, InternalError, TryAgainLater:
		return true
	}
	return c >= 4200 && c < 4300
}
