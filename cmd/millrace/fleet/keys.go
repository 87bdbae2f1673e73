package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"millrace/devices"
)

// Keys are the tokens of the fleet's devices, kept in a file that only its owner can read, so that a fleet that starts
// again is the one that was there before. Methods are safe for concurrent use.
type Keys struct {
	path string

	mu     sync.Mutex // guards tokens and the file
	tokens map[devices.ID]string
}

// OpenKeys reads the file; it need not exist. With an empty path nothing is kept.
func OpenKeys(path string) (*Keys, error) {
	k := &Keys{path: path, tokens: map[devices.ID]string{}}
	if path == "" {
		return k, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &k.tokens)
	}
	if err != nil {
		return nil, fmt.Errorf("tokens of the fleet in %s: %w; delete the file to give the devices new ones", path, err)
	}
	return k, nil
}

// Token returns a device's token, "" if there is none.
func (k *Keys) Token(id devices.ID) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tokens[id]
}

// Set keeps a device's token until Save.
func (k *Keys) Set(id devices.ID, token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens[id] = token
}

// Save writes the file whole or not at all.
func (k *Keys) Save() error {
	if k.path == "" {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := json.MarshalIndent(k.tokens, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(k.path), ".tokens-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), k.path)
}
