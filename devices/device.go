package devices

import (
	"encoding/json"
	"time"
)

// An ID names a device: [A-Za-z0-9._-]{1,128}, unique on the site; also its MQTT user name and a level of its topics.
type ID string

// Validate reports a FieldError "id" unless the id is well formed.
func (id ID) Validate() error {
	if !validName(string(id), 128) || id == "." || id == ".." {
		return Invalid("id", "must be 1 to 128 of A-Z a-z 0-9 . _ - and not . or ..")
	}
	return nil
}

// A State says whether a device may connect.
type State string

// States of a device.
const (
	Pending  State = "pending"  // announced, not yet let in
	Active   State = "active"   // may connect and publish
	Disabled State = "disabled" // kept, but refused
)

// A Device is something that publishes measurements.
type Device struct {
	ID               ID              `json:"id"`
	Label            string          `json:"label"`
	Type             string          `json:"type"`
	Attributes       json.RawMessage `json:"attributes"` // a JSON object; never nil when read from the store
	State            State           `json:"state"`
	Groups           []GroupPath     `json:"groups"`             // as given, without the groups above; sorted
	ExpectedInterval time.Duration   `json:"-"`                  // how often it should speak; 0: learned. API: "expectedIntervalMs"
	LastSeen         *time.Time      `json:"lastSeen,omitempty"` // when its last sample was received
	CreatedAt        time.Time       `json:"createdAt"`
	UpdatedAt        time.Time       `json:"updatedAt"`
}

// Validate checks all that a person can set.
func (d Device) Validate() error {
	if err := d.ID.Validate(); err != nil {
		return err
	}
	if err := validText("label", d.Label, 200); err != nil {
		return err
	}
	if err := validText("type", d.Type, 100); err != nil {
		return err
	}
	switch d.State {
	case Pending, Active, Disabled:
	default:
		return Invalid("state", "must be pending, active or disabled")
	}
	if len(d.Attributes) > 16<<10 {
		return Invalid("attributes", "is larger than 16 KiB")
	}
	if len(d.Attributes) > 0 {
		var object map[string]any
		if json.Unmarshal(d.Attributes, &object) != nil || object == nil {
			return Invalid("attributes", "must be a JSON object")
		}
	}
	if len(d.Groups) > 32 {
		return Invalid("groups", "has more than 32 paths")
	}
	for _, p := range d.Groups {
		if p.Validate() != nil {
			return Invalid("groups", "%q is no group path such as plant1/line2", p)
		}
	}
	if d.ExpectedInterval < 0 || d.ExpectedInterval > 366*24*time.Hour {
		return Invalid("expectedIntervalMs", "must be between 0 (learned) and a year")
	}
	return nil
}

// A CredentialKind says what a device shows to be let in.
type CredentialKind string

// Kinds of credentials. X.509 ones hold the SHA-256 fingerprint of the certificate.
const (
	TokenCredential CredentialKind = "token"
	X509Credential  CredentialKind = "x509"
)

// A Credential lets a device in. The secret itself is kept nowhere: Hash is SHA-256 of the token (32 bytes), which is
// enough because tokens are random and long.
type Credential struct {
	ID        string         `json:"id"`
	Device    ID             `json:"device"`
	Kind      CredentialKind `json:"kind"`
	Hint      string         `json:"hint"` // last four characters of the token, to tell credentials apart
	Hash      []byte         `json:"-"`
	CreatedAt time.Time      `json:"createdAt"`
	Expires   *time.Time     `json:"expires,omitempty"`
}
