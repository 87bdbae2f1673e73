package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
)

// Recovery makes and checks the tokens with which reliable clients come back. They hold as long as the process, as do the connections.
type Recovery struct {
	once sync.Once
	key  [32]byte
}

// Issue makes the token of a connection.
func (r *Recovery) Issue(hub, connection string) string {
	return base64.RawURLEncoding.EncodeToString(r.sum(hub, connection))
}

// Check reports whether a token is that of a connection.
func (r *Recovery) Check(token, hub, connection string) bool {
	b, err := base64.RawURLEncoding.DecodeString(token)
	return err == nil && hmac.Equal(b, r.sum(hub, connection))
}

func (r *Recovery) sum(hub, connection string) []byte {
	r.once.Do(func() { _, _ = rand.Read(r.key[:]) }) // never fails
	h := hmac.New(sha256.New, r.key[:])
	h.Write([]byte(hub))
	h.Write([]byte{0})
	h.Write([]byte(connection))
	return h.Sum(nil)
}
