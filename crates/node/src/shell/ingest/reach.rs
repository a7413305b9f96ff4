//! What ffmpeg may open for a source, besides the source itself.
//!
//! ffmpeg follows whatever a source names: a text file that is called `film.mp4` may list other
//! files of this machine, a playlist of the web may name `http://127.0.0.1/`, and what is found
//! there would be published. So a file and standard input are taken as containers that hold their
//! own bytes, never as lists; and whatever comes by HTTP is fetched through a gate that reaches
//! no other origin, which holds for nested playlists, keys and redirects alike.

use std::process::Command;

use super::error::IngestError;
use super::gate::{Gate, Origin};
use super::source::Input;

/// ffmpeg's readers of containers and raw streams that open nothing but the bytes they are given.
/// A name that a release of ffmpeg does not know does no harm; one that is missing here is refused.
const CONTAINERS: &str = "3dostr,4xm,aa,aac,aax,ac3,ac4,ace,acm,act,adp,ads,adx,aea,afc,aiff,aix,\
    alp,amr,amrnb,amrwb,anm,apc,ape,apm,apng,aptx,aptx_hd,asf,asf_o,ast,au,av1,avi,avr,avs,avs2,\
    avs3,bethsoftvid,bfi,bfstm,bink,binka,brstm,c93,caf,cavsvideo,cdxl,cine,codec2,daud,derf,dfa,\
    dhav,dirac,dnxhd,dsf,dsicin,dss,dts,dtshd,dv,dxa,ea,ea_cdata,eac3,epaf,evc,film_cpk,filmstrip,\
    flac,flic,flv,g722,g723_1,g726,g726le,g729,gdv,genh,gif,gsm,gxf,h261,h263,h264,hca,hcom,hevc,\
    hnm,iamf,iff,ifv,ilbc,ipu,ircam,iss,iv8,ivf,ivr,jv,kux,live_flv,lmlm4,loas,lvf,lxf,m4v,\
    matroska,mgsts,mjpeg,mjpeg_2000,mlp,mm,mmf,mods,moflex,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegtsraw,\
    mpegvideo,mpjpeg,msf,mtaf,mtv,musx,mv,mvi,mxf,mxg,nc,nistsphere,nsv,nut,nuv,obu,ogg,oma,osq,\
    paf,pmp,pp_bnk,psxstr,pva,pvf,qcp,qoa,r3d,redspark,rl2,rm,roq,rpl,rsd,rso,s337m,sbc,sdr2,sds,\
    sdx,ser,sga,shn,siff,smjpeg,smk,smush,sol,sox,spdif,svag,svs,swf,tak,thp,tiertexseq,tmv,truehd,\
    tta,ty,usm,vag,vc1,vc1test,vividas,vivo,vmd,voc,vpk,vqf,vvc,w64,wady,wav,wc3movie,webm,wsaud,\
    wsvqa,wtv,wv,wve,xa,xmd,xmv,xvag,xwma,yop,yuv4mpegpipe";
/// Lists whose every part is fetched by HTTP, through the gate.
const WEB_LISTS: &str = "hls,dash";
/// Readers that belong to a protocol and are chosen by it, never by what a source holds.
const SESSIONS: &str = "rtsp,rtp";
/// What a source of the web is fetched with; `data` and `crypto` reach nothing by themselves.
const WEB_PROTOCOLS: &str = "http,https,httpproxy,tls,tcp,crypto,data";

/// Protocols that carry one stream, each with what it is made of.
const STREAMS: &[(&str, &str)] = &[
    ("ftp", "tcp"),
    ("mmsh", "http,tcp"),
    ("mmst", "tcp"),
    ("rist", "udp"),
    ("rtmp", "tcp"),
    ("rtmpe", "ffrtmpcrypt,tcp"),
    ("rtmps", "tls,tcp"),
    ("rtmpt", "ffrtmphttp,http,tcp"),
    ("rtmpte", "ffrtmpcrypt,ffrtmphttp,http,tcp"),
    ("rtmpts", "ffrtmphttp,https,http,tls,tcp"),
    ("rtp", "udp"),
    ("rtsp", "rtp,srtp,udp,tcp,http"),
    ("rtsps", "rtp,srtp,udp,tls,tcp"),
    ("sctp", ""),
    ("sftp", "tcp"),
    ("srt", ""),
    ("srtp", "rtp,udp"),
    ("tcp", ""),
    ("tls", "tcp"),
    ("udp", ""),
    ("udplite", ""),
    ("unix", ""),
    ("zmq", ""),
];

/// The bounds of ffmpeg and ffprobe for one source.
pub(super) struct Reach {
    arguments: [String; 4],
    gate: Option<Gate>,
    shown: String,
}

impl Reach {
    /// For a source; `also_from` are origins that its playlists may name.
    pub(super) fn of(input: &Input, also_from: &[String]) -> Result<Self, IngestError> {
        let usage = |text: String| Err(IngestError::Usage(text));
        let Input::Url(url) = input else {
            let protocol = if *input == Input::Stdin {
                "pipe"
            } else {
                "file"
            };
            return Ok(Self::new(input, protocol, CONTAINERS, None));
        };
        let scheme = url.split("://").next().unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "http" || scheme == "https" {
            let mut origins = Vec::new();
            for text in std::iter::once(url).chain(also_from) {
                match Origin::of(text) {
                    Some(origin) => origins.push(origin),
                    None => return usage(format!("{text:?} is not a URL of http or https")),
                }
            }
            let gate = Gate::open(origins).map_err(IngestError::io("no port for ffmpeg"))?;
            let formats = format!("{CONTAINERS},{WEB_LISTS}");
            return Ok(Self::new(input, WEB_PROTOCOLS, &formats, Some(gate)));
        }
        let Some((_, made_of)) = STREAMS.iter().find(|(name, _)| *name == scheme) else {
            return usage(format!(
                "{scheme}:// is no protocol that is ingested: give http, https, rtmp, rtsp, srt, \
                 udp, rtp, tcp and their like, or a file"
            ));
        };
        let protocols = format!("{scheme},{made_of}");
        let formats = format!("{CONTAINERS},{SESSIONS}");
        Ok(Self::new(
            input,
            protocols.trim_end_matches(','),
            &formats,
            None,
        ))
    }

    fn new(input: &Input, protocols: &str, formats: &str, gate: Option<Gate>) -> Self {
        let words = [
            "-protocol_whitelist",
            protocols,
            "-format_whitelist",
            formats,
        ];
        Self {
            arguments: words.map(str::to_owned),
            gate,
            shown: input.shown(),
        }
    }

    /// What stands before `-i`.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Sends all that a program fetches by HTTP through the gate.
    pub(super) fn bound(&self, command: &mut Command) {
        if let Some(gate) = &self.gate {
            // ffmpeg knows the lower-case names alone.
            command.env("http_proxy", gate.url()).env_remove("no_proxy");
        }
    }

    /// An error when the source led to another origin: what is missing for it must not go
    /// unnoticed, even where ffmpeg passes over it.
    pub(super) fn check(&self) -> Result<(), IngestError> {
        match self.gate.as_ref().and_then(Gate::refused) {
            Some(foreign) => Err(IngestError::OtherOrigin {
                input: self.shown.clone(),
                foreign,
            }),
            None => Ok(()),
        }
    }
}

/// True when ffmpeg or ffprobe says that it did not open a list, or a kind that is unknown here.
pub(super) fn is_refused_format(stderr: &str) -> bool {
    stderr.contains("Format not on whitelist")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> String {
        let reach = Reach::of(&Input::parse(text), &[]);
        reach.map_or_else(|e| e.to_string(), |reach| reach.arguments().join(" "))
    }

    #[test]
    fn each_kind_of_source_reaches_what_it_is_made_of() {
        let file = arguments("film.mp4");
        assert!(file.starts_with("-protocol_whitelist file -format_whitelist 3dostr,"));
        for list in [
            "hls", "dash", "concat", "image2", "sdp", "imf", "mlv", "vobsub", "rtsp",
        ] {
            assert!(!file.split([',', ' ']).any(|word| word == list), "{list}");
        }
        assert!(arguments("-").starts_with("-protocol_whitelist pipe -"));
        assert!(arguments("srt://h:1").starts_with("-protocol_whitelist srt -"));
        assert!(arguments("RTMP://h/a").starts_with("-protocol_whitelist rtmp,tcp -"));
        assert!(arguments("rtsp://h/a").ends_with(",rtsp,rtp"));
        let web = arguments("https://h/a.m3u8");
        assert!(web.ends_with(",hls,dash"), "{web}");
        assert!(!web.contains("file"), "{web}");
    }

    #[test]
    fn protocols_that_compose_or_read_local_files_are_refused() {
        for text in [
            "concat://a",
            "subfile://a",
            "crypto://a",
            "hls+http://h/a",
            "file://h/a",
        ] {
            let error = arguments(text);
            assert!(error.contains("is no protocol that is ingested"), "{error}");
        }
    }
}
