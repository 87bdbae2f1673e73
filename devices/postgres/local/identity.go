package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is who the server runs as. PostgreSQL refuses to be root, and wants its cluster to be its own.
//
// There are three ways. As a plain user it runs as we do. Started by root it becomes the user postgres or nobody. Where that
// user can't reach the directory, because it lies in root's own home, or where our user id has no name, which initdb insists
// on, it runs in a user namespace that shows our own id as another: it then owns what we own, and holds no capability.
type identity struct {
	uid, gid  uint32
	namespace bool // uid and gid are what the server believes; outside they are ours
	drop      bool // we are root and become uid and gid
}

func chooseIdentity(dir, cluster string) (identity, error) {
	if os.Geteuid() != 0 {
		if _, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
			return identity{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
		}
		other, err := otherUser()
		other.namespace = true
		return other, err
	}
	other, err := otherUser()
	if err != nil {
		return other, err
	}
	if info, err := os.Stat(cluster); err == nil { // made before: as its owner
		if uid := owner(info); uid != 0 && reachable(dir, uid) {
			gid := info.Sys().(*syscall.Stat_t).Gid
			return identity{uid: uid, gid: gid, drop: true}, nil
		}
		other.namespace = true
		return other, nil
	}
	if reachable(dir, other.uid) {
		other.drop = true
	} else {
		other.namespace = true
	}
	return other, nil
}

// otherUser is whom root becomes.
func otherUser() (identity, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return identity{uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return identity{}, errors.New("PostgreSQL can't run as root, and there is neither a user postgres nor nobody to become")
}

// reachable reports whether a user without special groups can get to a directory, the last one, which we give away, left out.
func reachable(dir string, uid uint32) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for real != "/" {
		real = filepath.Dir(real)
		info, err := os.Stat(real)
		if err != nil {
			return false
		}
		if mode := info.Mode().Perm(); mode&0o001 == 0 && (owner(info) != uid || mode&0o100 == 0) {
			return false
		}
	}
	return true
}

func owner(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

// fileUID is the owner of its files as we see it.
func (i identity) fileUID() uint32 {
	if i.drop {
		return i.uid
	}
	return uint32(os.Geteuid())
}

func (i identity) attributes() *syscall.SysProcAttr {
	switch {
	case i.drop:
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: i.uid, Gid: i.gid}}
	case i.namespace:
		return &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: int(i.uid), HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: int(i.gid), HostID: os.Getegid(), Size: 1}},
		}
	}
	return &syscall.SysProcAttr{}
}

// own gives a directory to the identity: what is in it as well, where the owner is another.
func (i identity) own(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid := int(i.uid), int(i.gid)
	if !i.drop {
		uid, gid = 0, os.Getegid()
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil && owner(info) != uint32(uid) {
			if err := os.Lchown(path, uid, gid); err != nil {
				return fmt.Errorf("give %s to user %d: %w", path, uid, err)
			}
		}
		return nil
	})
}
