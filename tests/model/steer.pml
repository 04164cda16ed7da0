// SPDX-License-Identifier: BSD-3-Clause
//
// Steering by a plugin's own hash (dps_on_hash), for spin: what becomes of a packet between the word that says
// another bucket and the lane that has that bucket. The lane itself is lane.pml's: here its words are not used
// again, a burst is one packet, and what a kill cuts is a packet's handling.
//
// One flow. Its packets come to bucket 0, which lane 0 has; its worker says bucket 1. That one is lane 1's, and
// moves to lane 2 at any moment. The worker of lane 1 or 2 lets each packet out, or says bucket 1 once more,
// which is refused. The workers of lanes 0 and 1 are killed at any moment: lane 0 has a successor; what is left
// in lane 1 comes back as REQUEUE, as nobody takes it over.
//
// Checked: what leaves does so in order, each packet leaves once or is refused once, nothing is left, and a
// packet is in the bucket that its plugin said.
//
// Variants, each wrong: HASH_LATE OLD_MARK NO_WAIT PARKED_FIRST NO_LIMIT.

#ifndef PACKETS
#define PACKETS 3
#endif
#define LANES 3
#define ROOM (2 * PACKETS)

#define DESCRIPTOR 0
#define OUT 1
#define REQUEUE 2
#define HASH 4          // and the bucket

typedef lane_t {
	byte word[ROOM];
	byte packet[ROOM];      // the io core's own
	byte hash[ROOM];        // with HASH_LATE: beside the word
	byte sent;
	byte done;
	byte collected
};

lane_t lane[LANES];
byte mark[PACKETS];             // the bucket that the io core knows the packet by
bit steered[PACKETS];
byte owner = 1;                 // of bucket 1
byte waits_for;                 // the lane that it waits for, 0: none
byte until;
bit dead;                       // lane 1's worker
chan again = [PACKETS] of { byte };
chan parked = [PACKETS] of { byte };
byte last;                      // of those that left, 1 + its number
byte left;                      // packets that left, or were refused

inline lend(l, p)
{
	lane[l].packet[lane[l].sent] = p;
	lane[l].word[lane[l].sent] = DESCRIPTOR;
	lane[l].hash[lane[l].sent] = 0;
	lane[l].sent++
}

// As steer(): to the lane that has the packet's bucket, but for what must wait.
inline steer(p)
{
	if
	:: mark[p] == 0 -> lend(0, p)
#ifdef NO_WAIT
	:: mark[p] == 1 -> lend(owner, p)
#else
	:: mark[p] == 1 && (waits_for != 0 || len(again) + len(parked) > 0) -> parked!p
	:: mark[p] == 1 && waits_for == 0 && len(again) + len(parked) == 0 -> lend(owner, p)
#endif
	fi
}

inline collect(l)
{
	p = lane[l].packet[lane[l].collected];
	w = lane[l].word[lane[l].collected];
	assert(w != DESCRIPTOR);
	if
	:: w == OUT ->
		assert(p + 1 > last && mark[p] == 1);
		last = p + 1;
		left++
	:: w == REQUEUE && mark[p] == 1 -> again!p
	:: w == REQUEUE && mark[p] == 0 -> lend(0, p)
	:: w >= HASH ->
#ifdef HASH_LATE
		w = HASH + lane[l].hash[lane[l].collected];
#endif
		assert(w == HASH + 1);
		if
#ifndef NO_LIMIT
		:: steered[p] -> left++
#endif
#ifdef NO_LIMIT
		:: true ->
			assert(!steered[p]);
#else
		:: !steered[p] ->
#endif
			steered[p] = 1;
#ifndef OLD_MARK
			mark[p] = w - HASH;
			steer(p)
#else
			lend(owner, p)
#endif
		fi
	fi;
	lane[l].collected++
}

active proctype io_core()
{
	byte next, p, w, l;
	bit moved;

end:
	do
	:: d_step { next < PACKETS -> mark[next] = 0; lend(0, next); next++ }
	:: d_step { lane[0].collected != lane[0].done -> collect(0); p = 0; w = 0 }
	:: d_step { lane[1].collected != lane[1].done -> collect(1); p = 0; w = 0 }
	:: d_step { lane[2].collected != lane[2].done -> collect(2); p = 0; w = 0 }
	:: d_step { !moved ->
		moved = 1;
		owner = 2;
		waits_for = (lane[1].collected != lane[1].sent -> 1 : 0);
		until = lane[1].sent
	   }
	:: d_step { moved && waits_for != 0 && lane[1].collected == until -> waits_for = 0 }
	:: d_step { waits_for == 0 && len(again) + len(parked) > 0 ->
#ifdef PARKED_FIRST
		if
		:: len(parked) > 0 -> parked?p
		:: len(parked) == 0 -> again?p
		fi;
#else
		if
		:: len(again) > 0 -> again?p
		:: len(again) == 0 -> parked?p
		fi;
#endif
		lend(owner, p);
		p = 0
	   }
	// Its warden has found lane 1's worker dead, and nobody takes it over: what is left comes back.
	:: d_step { dead && moved && lane[1].done != lane[1].sent ->
		do
		:: lane[1].done != lane[1].sent ->
			if
			:: lane[1].word[lane[1].done] == DESCRIPTOR ->
				lane[1].word[lane[1].done] = REQUEUE
			:: else
			fi;
			lane[1].done++
		:: else -> break
		od;
		p = 0
	   }
	od
}

#define MINE lane[0]

// Before each store: a kill, after which the successor hands on what has a verdict, and runs the rest anew.
active proctype first()
{
end:
	do
	:: MINE.done != MINE.sent && MINE.word[MINE.done] == DESCRIPTOR ->
		if
		:: MINE.word[MINE.done] = HASH + 1
		:: true                                 // killed
		fi;
#ifdef HASH_LATE
		if
		:: MINE.word[MINE.done] != DESCRIPTOR -> MINE.hash[MINE.done] = 1
		:: true                                 // killed
		fi
#endif
	:: MINE.done != MINE.sent && MINE.word[MINE.done] != DESCRIPTOR -> MINE.done++
	od
}

active [2] proctype second()
{
	byte l = _pid - 1;

end:
	do
	:: (l == 2 || !dead) && lane[l].done != lane[l].sent && lane[l].word[lane[l].done] == DESCRIPTOR ->
		atomic {
			(l == 2 || !dead) ->
			if
			:: lane[l].word[lane[l].done] = OUT
			:: lane[l].word[lane[l].done] = HASH + 1
			fi
		}
	:: d_step { (l == 2 || !dead) && lane[l].done != lane[l].sent &&
		    lane[l].word[lane[l].done] != DESCRIPTOR -> lane[l].done++ }
	:: atomic { l == 1 && !dead -> dead = 1; break }
	od
}

active proctype at_the_end()
{
	timeout -> assert(left == PACKETS)
}
