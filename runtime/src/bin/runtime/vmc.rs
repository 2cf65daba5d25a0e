//! Poses to avatars and game engines: the VMC protocol ("Virtual Motion Capture") over OSC and UDP, as the Performer.
//!
//! Every pose is two or so OSC bundles: `/VMC/Ext/OK`, `/VMC/Ext/T`, `/VMC/Ext/Root/Pos` and a `/VMC/Ext/Bone/Pos` for each bone of
//! [`formats::motion::humanoid`], whose page says axes and rest pose.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use anyhow::Context as _;
use formats::motion::humanoid::{self, BonePose};
use rosc::{OscBundle, OscMessage, OscPacket, OscTime, OscType};
use runtime::StreamPose;

/// Largest datagram: what fits into a frame of Ethernet.
const LARGEST_PACKET: usize = 1400;
/// "At once", by OSC.
const NOW: OscTime = OscTime { seconds: 0, fractional: 1 };

/// Sends poses to one receiver.
pub struct Vmc {
    socket: UdpSocket,
    receiver: SocketAddr,
    /// Time of the first pose: times are sent as f32, which has no room for the hour.
    start_s: Option<f64>,
}

impl Vmc {
    /// # Errors
    /// No socket can be had.
    pub fn new(receiver: SocketAddr) -> anyhow::Result<Self> {
        let any = if receiver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).context("cannot open a UDP socket for VMC")?;
        // A receiver that does not read costs nothing but its own poses.
        socket.set_nonblocking(true).context("cannot open a UDP socket for VMC")?;
        Ok(Self { socket, receiver, start_s: None })
    }

    /// Sends one pose. Datagrams that do not go out are lost, as on the way; the log says so.
    pub fn send(&mut self, pose: &StreamPose) {
        if let Err(error) = self.try_send(pose) {
            tracing::debug!("a pose did not go out by VMC: {error}");
        }
    }

    fn try_send(&mut self, pose: &StreamPose) -> io::Result<()> {
        let bones = humanoid::bones(&pose.world_mm).map_err(io::Error::other)?;
        let time_s = pose.time_s - *self.start_s.get_or_insert(pose.time_s);
        for packet in packets(time_s, pose.held, &bones).map_err(|error| io::Error::other(error.to_string()))? {
            self.socket.send_to(&packet, self.receiver)?;
        }
        Ok(())
    }
}

/// All messages of a pose, in datagrams of at most [`LARGEST_PACKET`] bytes.
fn packets(time_s: f64, held: bool, bones: &[BonePose; humanoid::BONES.len()]) -> Result<Vec<Vec<u8>>, rosc::OscError> {
    // loaded, calibrated, in the normal mode, tracked
    let ok = [1, 3, 0, i32::from(!held)].map(OscType::Int).to_vec();
    let root = BonePose { position_m: [0.0; 3], rotation: [0.0, 0.0, 0.0, 1.0] };
    let mut messages = vec![
        message("/VMC/Ext/OK", ok),
        message("/VMC/Ext/T", vec![OscType::Float(time_s as f32)]),
        message("/VMC/Ext/Root/Pos", placed("root", &root)),
    ];
    messages.extend(humanoid::BONES.iter().zip(bones).map(|(bone, pose)| message("/VMC/Ext/Bone/Pos", placed(bone.name, pose))));

    let mut packets = Vec::new();
    let mut content: Vec<OscPacket> = Vec::new();
    let mut size = BUNDLE_BYTES;
    for message in messages {
        let bytes = ELEMENT_BYTES + rosc::encoder::encode(&message)?.len();
        if size + bytes > LARGEST_PACKET {
            packets.push(bundle(std::mem::take(&mut content))?);
            size = BUNDLE_BYTES;
        }
        size += bytes;
        content.push(message);
    }
    packets.push(bundle(content)?);
    Ok(packets)
}

/// "#bundle" and the time.
const BUNDLE_BYTES: usize = 16;
/// The size before each message of a bundle.
const ELEMENT_BYTES: usize = 4;

fn bundle(content: Vec<OscPacket>) -> Result<Vec<u8>, rosc::OscError> {
    rosc::encoder::encode(&OscPacket::Bundle(OscBundle { timetag: NOW, content }))
}

fn message(address: &str, args: Vec<OscType>) -> OscPacket {
    OscPacket::Message(OscMessage { addr: address.to_owned(), args })
}

/// Name, position (x, y, z), rotation (x, y, z, w).
fn placed(name: &str, BonePose { position_m, rotation }: &BonePose) -> Vec<OscType> {
    let numbers = position_m.iter().chain(rotation).map(|&number| OscType::Float(number));
    std::iter::once(OscType::String(name.to_owned())).chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_fit_and_hold_everything() {
        let bones = [BonePose { position_m: [1.0, 2.0, 3.0], rotation: [0.0, 0.0, 0.0, 1.0] }; humanoid::BONES.len()];
        let packets = packets(1.5, true, &bones).unwrap();
        assert!(packets.len() <= 2 && packets.iter().all(|packet| packet.len() <= LARGEST_PACKET));
        let mut found = Vec::new();
        for packet in &packets {
            let (rest, OscPacket::Bundle(OscBundle { content, .. })) = rosc::decoder::decode_udp(packet).unwrap() else {
                panic!("no bundle")
            };
            assert!(rest.is_empty());
            found.extend(content);
        }
        assert_eq!(found.len(), 3 + humanoid::BONES.len());
        assert_eq!(found[0], message("/VMC/Ext/OK", [1, 3, 0, 0].map(OscType::Int).to_vec()));
        assert_eq!(found[1], message("/VMC/Ext/T", vec![OscType::Float(1.5)]));
    }
}
