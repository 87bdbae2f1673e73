package socket

import "encoding/binary"

// Opcodes of frames (RFC 6455, 5.2), with the final bit.
const (
	opText   = 0x81
	opBinary = 0x82
	opClose  = 0x88
	opPing   = 0x89
	opPong   = 0x8a
)

// room is what Begin leaves for the header: that of payloads of 126 to 65,535 bytes, which most are.
const room = 4

// Begin leaves room in dst for the header of a message. Append the payload, then Seal it.
func Begin(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// Seal completes the message that was begun at start: from there on dst is what Send takes. One message can be sent on any
// number of connections. Short and very long payloads are moved to make the header fit (RFC 6455, 5.2 wants it minimal).
func Seal(dst []byte, start int, text bool) []byte {
	op := byte(opBinary)
	if text {
		op = opText
	}
	n := len(dst) - start - room
	switch {
	case n <= 125:
		copy(dst[start+2:], dst[start+room:])
		dst = dst[:start+2+n]
		dst[start], dst[start+1] = op, byte(n)
	case n <= 0xffff:
		dst[start], dst[start+1] = op, 126
		binary.BigEndian.PutUint16(dst[start+2:], uint16(n))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[start+10:], dst[start+room:start+room+n])
		dst[start], dst[start+1] = op, 127
		binary.BigEndian.PutUint64(dst[start+2:], uint64(n))
	}
	return dst
}

// Payload is what was sealed in a message.
func Payload(message []byte) []byte {
	switch message[1] {
	case 127:
		return message[10:]
	case 126:
		return message[4:]
	}
	return message[2:]
}

// appendControl appends a control frame; its payload is at most 125 bytes.
func appendControl(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, op, byte(len(payload)))
	return append(dst, payload...)
}
