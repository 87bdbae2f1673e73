package event

import (
	"crypto/sha1" // thumbprints are made of it
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"millrace/fanout/hub"
)

// A Client is a connection as its handlers see it, at the time of an event.
type Client struct {
	Hub         string // in lower case
	Connection  string
	User        string  // "": none
	Subprotocol string  // as negotiated; "" in connect, except for MQTT
	State       *string // what handlers have kept with the connection; nil: nothing
	ID          uint64  // of the event: 0 for connect, then 1, 2, …

	Physical string // MQTT: each TCP connection has its own
	Session  string // MQTT: not yet known in connect

	// Cookies of the connection, which the caller keeps with it and gives with every event. Nil: cookies are not kept.
	Cookies *Cookies
}

// A ConnectRequest asks the handler whether a client may connect. Every map is of a name to its values.
type ConnectRequest struct {
	Client
	Claims       map[string][]string // of the token
	Query        map[string][]string // access_token is left out
	Headers      map[string][]string // Authorization is left out
	Subprotocols []string            // offered
	Certificates []Certificate
	MQTT         *MQTTConnect
}

// A Certificate of a client.
type Certificate struct {
	Thumbprint string `json:"thumbprint"` // SHA-1, in hex
	Content    string `json:"content"`    // PEM
}

// CertificateOf is what handlers are told of a certificate.
func CertificateOf(c *x509.Certificate) Certificate {
	sum := sha1.Sum(c.Raw)
	return Certificate{
		Thumbprint: strings.ToUpper(hex.EncodeToString(sum[:])),
		Content:    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
	}
}

// MQTTConnect is what handlers are told of a CONNECT packet.
type MQTTConnect struct {
	ProtocolVersion int        `json:"protocolVersion"` // 4 or 5
	CleanStart      bool       `json:"cleanStart"`
	Username        *string    `json:"username"`
	Password        []byte     `json:"password"` // base64 on the wire
	UserProperties  []Property `json:"userProperties"`
}

// A Property is a user property of MQTT 5.0.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// A ConnectAnswer is what the handler makes of a client. What is nil or empty stays as the token has it.
type ConnectAnswer struct {
	Handled        bool      // there is a handler for connect
	User           *string   // "": no user
	Groups         []string  // in place of those of the token
	Roles          *[]string // in place of those of the token; may be empty
	Subprotocol    string    // one of those offered, as the client spelled it
	State          *string
	UserProperties []Property // MQTT: for CONNACK
}

// A UserRequest is an event that a client sends.
type UserRequest struct {
	Client
	Name     string
	Data     hub.Data // nobody may change its bytes
	Metadata map[string]string

	ContentType string      // in place of that of the data; MQTT
	Header      http.Header // more headers; MQTT has mqtt-…
}

// An Answer to an event of a user. Without a handler, when only listeners take the event, it is empty.
type Answer struct {
	Data        *hub.Data         // for the connection that sent the event; nil: nothing
	Metadata    map[string]string // of that, with names in lower case
	State       *string           // the connection's new state; nil: as it was
	Status      int               // 2xx
	Header      http.Header
	ContentType string
}

// Refused is the error of a handler that said no, or that could not be asked.
type Refused struct {
	Status      int // for connect 4xx as the handler said it, or 500; for user events what the handler said, or 500
	Body        []byte
	ContentType string
	Header      http.Header  // of the handler's answer; nil when there was none
	MQTT        *MQTTRefusal // what the answer says for CONNACK
	Err         error        // why, for logs
}

func (r *Refused) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("event handler: %v", r.Err)
	}
	return fmt.Sprintf("event handler: answered %d", r.Status)
}

func (r *Refused) Unwrap() error { return r.Err }

// MQTTRefusal is what a handler wants in CONNACK.
type MQTTRefusal struct {
	Code           int        `json:"code"`
	Reason         string     `json:"reason"`
	UserProperties []Property `json:"userProperties"`
}

// MQTTDisconnect tells how an MQTT session ended.
type MQTTDisconnect struct {
	InitiatedByClient bool        `json:"initiatedByClient"`
	DisconnectPacket  *MQTTPacket `json:"disconnectPacket"` // nil: the network was lost
}

// MQTTPacket is a DISCONNECT packet.
type MQTTPacket struct {
	Code           int        `json:"code"`
	UserProperties []Property `json:"userProperties"`
}

// Stats are counts since the start, but for those of now.
type Stats struct {
	Sent         uint64        // events that handlers took
	Failed       uint64        // calls that handlers did not answer well, each attempt counted
	Retried      uint64        // attempts after the first
	Dead         uint64        // notifications that became dead letters
	Lost         uint64        // of those, the ones that could not be kept
	Copied       uint64        // copies that listeners took
	CopiesFailed uint64        // copies given up
	Took         time.Duration // all calls together
	Open         int           // calls now under way
	Waiting      int           // notifications and copies that wait now
	WaitingBytes int
}
